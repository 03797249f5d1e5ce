//! Sessions over WebSocket, seen from the relay: addresses, limits and memory.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::wire::WireError;
use mailtest::client::{Peer, websocket};
use mailtest::until;

use super::Context;

const UNIT: &str = "chatmail-websocket";
/// Maximum number of sessions of one address with an SMTP server on relay c, and with its WebSocket: a fifth of
/// `connections.smtp`, and of that and `connections.imap`.
const SMTP_SHARE: usize = 12;
const SHARE: usize = 52;
/// Idle sessions, and how many each account has.
const IDLE: usize = 500;
const PER_ACCOUNT: usize = 50;
/// Memory of the service and of nginx for each idle session, in bytes.
const MAX_MEMORY: u64 = 16 * 1024;
const WITHIN: Duration = Duration::from_secs(60);

/// Dovecot and Postfix know the address of a client over WebSocket, so its limits apply, and no log contains it.
pub(super) async fn addresses(context: &Context) -> anyhow::Result<()> {
    const RELAY: &str = "c";
    let peer = context.peer(RELAY)?;
    let host = context.topology.host.to_string();
    let account = context.account(RELAY).await?;
    let mut imap = websocket::imap(&peer).await?;
    imap.login(&account.address, &account.password).await?.ok()?;
    imap.select_inbox().await?;
    let who = context.run(RELAY, &["doveadm", "who", &account.address]).await?;
    ensure!(
        who.contains(&host) && !who.contains("127.0.0.1"),
        "Dovecot does not see the address {host}: {who}"
    );

    let mut sessions = Vec::new();
    for _ in 0..SMTP_SHARE {
        let session = websocket::smtp(&peer).await?;
        ensure!(session.greeting().code == 220, "{}", session.greeting());
        sessions.push(session);
    }
    let more = websocket::smtp(&peer).await?;
    ensure!(
        more.greeting().code == 421,
        "one session more: {}",
        more.greeting()
    );
    let greeting = from_elsewhere(context, &peer, "/smtp").await?;
    ensure!(greeting.contains("220 "), "another address: {greeting}");
    drop((sessions, more));

    // nginx limits the sessions of one address before any mail server is involved.
    let mut wires = Vec::new();
    let refused = loop {
        let (wire, lines) = websocket::request(&peer, "/imap", "").await?;
        match websocket::status(&lines) {
            Some(101) => wires.push(wire),
            other => break other,
        }
        ensure!(wires.len() <= SHARE, "{} sessions of one address", wires.len());
    };
    ensure!(refused == Some(429), "session {}: {refused:?}", wires.len() + 1);
    // The first session, and those over SMTP that nginx still closes, count too.
    ensure!(
        wires.len() + 1 + SMTP_SHARE + 1 >= SHARE,
        "only {} sessions of one address",
        wires.len()
    );
    let greeting = from_elsewhere(context, &peer, "/imap").await?;
    ensure!(greeting.contains("* OK "), "another address: {greeting}");
    let page = mailtest::client::http::request(peer.port(443), &peer.tls, &peer.domain, "GET", "/").await?;
    ensure!(page.status == 200, "the web site: {}", page.head);
    imap.command("NOOP").await?.ok()?;
    Ok(())
}

/// Returns the beginning of a session that relay b opens.
async fn from_elsewhere(context: &Context, peer: &Peer, path: &str) -> anyhow::Result<String> {
    let address = peer.port(443);
    let request = format!(
        "(printf 'GET {path} HTTP/1.1\\r\\nHost: {}\\r\\nConnection: Upgrade\\r\\nUpgrade: websocket\\r\\n\
         Sec-WebSocket-Version: 13\\r\\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\\r\\n\\r\\n'; \
         sleep 8) | timeout 10 openssl s_client -quiet -servername {} -connect {address} 2>/dev/null | tr -d '\\0'",
        peer.domain, peer.domain
    );
    context.run("b", &["sh", "-c", &request]).await
}

/// Hundreds of idle sessions need little memory, and end when the service stops.
pub(super) async fn idle_memory(context: &Context) -> anyhow::Result<()> {
    const RELAY: &str = "a";
    let peer = context.peer(RELAY)?;
    let before = context.machines().usage(RELAY)?;
    let mut sessions: Vec<Imap> = Vec::new();
    let mut account = context.account(RELAY).await?;
    while sessions.len() < IDLE {
        if sessions.len().is_multiple_of(PER_ACCOUNT) {
            account = context.account(RELAY).await?;
        }
        let mut imap = websocket::imap(&peer).await?;
        imap.login(&account.address, &account.password).await?.ok()?;
        imap.select_inbox().await?;
        imap.idle().await?;
        sessions.push(imap);
    }
    let after = context.machines().usage(RELAY)?;
    let memory = |unit: &str| -> anyhow::Result<u64> {
        let of =
            |usage: &std::collections::BTreeMap<String, crate::machine::Usage>| Some(usage.get(unit)?.memory);
        let (before, after) = (of(&before), of(&after));
        let grown = after.with_context(|| format!("{unit} does not run"))?;
        Ok(grown.saturating_sub(before.unwrap_or_default()) / IDLE as u64)
    };
    let (service, nginx, dovecot) = (memory(UNIT)?, memory("nginx")?, memory("dovecot")?);
    println!("    {IDLE} idle sessions, bytes each: {UNIT} {service}, nginx {nginx}, Dovecot {dovecot}");
    ensure!(
        service <= MAX_MEMORY,
        "{service} bytes of {UNIT} for each idle session"
    );

    // A restart tells every client, which then connects again.
    let unit = format!("{UNIT}.service");
    context.run(RELAY, &["systemctl", "restart", &unit]).await?;
    let mut first = sessions.swap_remove(0);
    let end = loop {
        if let Err(error) = first.response().await {
            break error;
        }
    };
    ensure!(
        end.downcast_ref().is_some_and(WireError::is_disconnect),
        "a session outlives the service: {end:#}"
    );
    until(WITHIN, async || Ok(websocket::imap(&peer).await.ok()))
        .await
        .context("no session after a restart")?;
    Ok(())
}
