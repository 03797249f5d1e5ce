//! Scenarios for relays on the Internet, ours or those of the reference, with settings that are not known.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::net::UdpSocket;

use super::{Context, accounts, chat, metadata, policy};
use crate::client::{http, outside, pgp};
use crate::scenario::Scenario;
use crate::topology::Topology;

/// The relay that is tested.
const RELAY: &str = "a";

/// Longest wait for a datagram.
const DATAGRAM: Duration = Duration::from_secs(2);

/// All of them, in the order of the report.
pub fn all() -> Vec<Scenario<Context>> {
    crate::scenarios! {
        "sign-up", Addresses, 60, sign_up;
        "wrong-password-refused", Addresses, 60, accounts::wrong_password;
        "tls-on-every-port", Addresses, 60, tls_on_every_port;
        "cleartext-refused", Addresses, 60, policy::cleartext_submitted;
        "forged-from-refused", Addresses, 60, policy::forged_from;
        "envelope-of-another-account-refused", Addresses, 60, policy::foreign_envelope;
        "dkim-enforced", Addresses, 60, dkim_enforced;
        "messages-notify-at-once", Addresses, 90, chat::idle_wakes;
        "push-tokens", Addresses, 60, metadata::device_tokens;
        "metadata", Addresses, 60, announcements;
        "turn", Addresses, 60, turn;
        "iroh", Addresses, 60, iroh;
        "autoconfig", Addresses, 60, autoconfig;
        "web-site", Addresses, 60, web_site;
        "securejoin", Addresses, 300, chat::securejoin_across;
        "encrypted-messages", Addresses, 300, chat::messages_across;
        "attachment", Addresses, 300, chat::attachment_across;
        "read-receipt", Addresses, 300, chat::read_receipt_across;
    }
}

/// Tests of [`all`] that need no sign-up but two accounts on relay a.
const TWO_ACCOUNTS: [&str; 3] = [
    "forged-from-refused",
    "envelope-of-another-account-refused",
    "push-tokens",
];
/// Those that need two accounts, one on each relay.
const TWO_PEOPLE: [&str; 4] = ["securejoin", "encrypted-messages", "attachment", "read-receipt"];

/// Why a test cannot run with the given accounts; none if it can.
pub fn skipped(name: &str, topology: &Topology) -> Option<&'static str> {
    let given = |relay| topology.relay(relay).map_or(0, |relay| relay.accounts.len());
    let one_relay = topology.relay("a").map(|a| &a.domain) == topology.relay("b").map(|b| &b.domain);
    match given("a") {
        0 => None,
        _ if name == "sign-up" => Some("accounts are given"),
        1 if TWO_ACCOUNTS.contains(&name) || (one_relay && TWO_PEOPLE.contains(&name)) => {
            Some("it needs two accounts on the relay; give --account twice")
        }
        _ => None,
    }
}

async fn sign_up(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    account.smtp().await.context("over SMTP").map(drop)
}

async fn tls_on_every_port(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    peer.submission().await.context("port 465")?;
    peer.submission_starttls().await.context("port 587")?;
    peer.imap().await.context("port 993")?;
    let imap = crate::client::imap::Imap::connect(peer.port(143))
        .await
        .context("port 143")?;
    imap.starttls(&peer.tls, &peer.domain).await.context("port 143")?;
    http::request(peer.port(443), &peer.tls, &peer.domain, "GET", "/")
        .await
        .context("port 443")?;
    for protocol in ["imap", "smtp"] {
        let tls = peer.tls.clone().alpn(protocol);
        crate::client::wire::Wire::connect_tls(peer.port(443), &tls, &peer.domain)
            .await
            .with_context(|| format!("port 443 for {protocol}"))?;
    }
    Ok(())
}

/// A message from outside without a signature.
async fn dkim_enforced(context: &Context) -> anyhow::Result<()> {
    let receiver = context.account(RELAY).await?;
    let mut smtp = receiver
        .peer
        .exchange(outside::DOMAIN)
        .await
        .context("port 25, which many providers block")?;
    let from = format!("someone@{}", outside::DOMAIN);
    let message = pgp::encrypted(&from, 1000).bytes();
    let reply = smtp.send(&from, &[&receiver.address], &message).await?;
    ensure!(!reply.is_positive(), "the relay accepts unsigned mail: {reply}");
    Ok(())
}

async fn announcement(context: &Context, entry: &str) -> anyhow::Result<Option<String>> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    imap.server_metadata(&format!("/shared/vendor/deltachat/{entry}"))
        .await
}

async fn announcements(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    imap.server_metadata("/shared/admin").await?;
    ensure!(
        imap.server_metadata("/shared/vendor/deltachat/no-such-entry")
            .await?
            .is_none(),
        "the relay announces an entry that does not exist"
    );
    Ok(())
}

/// The announced TURN server answers a request of STUN (RFC 8489).
async fn turn(context: &Context) -> anyhow::Result<()> {
    let Some(turn) = announcement(context, "turn").await? else {
        bail!("the relay announces no TURN server")
    };
    let mut fields = turn.split(':');
    let (Some(host), Some(Ok(port))) = (fields.next(), fields.next().map(str::parse::<u16>)) else {
        bail!("the relay announces the TURN server {turn:?}")
    };
    let peer = context.peer(RELAY)?;
    let address = if host == peer.domain {
        peer.port(port)
    } else {
        let mut found = tokio::net::lookup_host((host, port)).await?;
        found.next().with_context(|| format!("{host} has no address"))?
    };
    let socket = UdpSocket::bind(if address.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }).await?;
    let request = b"\x00\x01\x00\x00\x21\x12\xa4\x42mailtest-tst";
    let mut answer = [0; 512];
    for _ in 0..3 {
        socket.send_to(request, address).await?;
        if let Ok(received) = tokio::time::timeout(DATAGRAM, socket.recv_from(&mut answer)).await {
            received?;
            ensure!(
                answer.starts_with(&[1, 1]),
                "{host} does not answer as a STUN server"
            );
            return Ok(());
        }
    }
    bail!("{host} does not answer on UDP port {port}")
}

async fn iroh(context: &Context) -> anyhow::Result<()> {
    let Some(url) = announcement(context, "irohrelay").await? else {
        bail!("the relay announces no iroh relay")
    };
    let url = url::Url::parse(&url).with_context(|| format!("the relay announces {url:?}"))?;
    let peer = context.peer(RELAY)?;
    let host = url.host_str().context("the URL of the iroh relay has no host")?;
    if host != peer.domain {
        return Ok(());
    }
    let answer = http::request(peer.port(443), &peer.tls, host, "GET", "/ping").await?;
    ensure!(answer.status == 200, "/ping: {}", answer.head);
    Ok(())
}

async fn autoconfig(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let path = "/.well-known/autoconfig/mail/config-v1.1.xml";
    let answer = http::request(peer.port(443), &peer.tls, &peer.domain, "GET", path).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(
        answer.status == 200 && text.contains("<clientConfig") && text.contains(&peer.domain),
        "{path}: {}",
        answer.head
    );
    Ok(())
}

async fn web_site(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let page = http::request(peer.port(443), &peer.tls, &peer.domain, "GET", "/").await?;
    ensure!(page.status == 200, "the page: {}", page.head);
    if !peer.accounts.is_empty() {
        // Whether the relay gives out addresses is not known.
        return Ok(());
    }
    let query = peer.invitation.as_ref().map(|token| format!("?token={token}"));
    let new = format!("/new{}", query.unwrap_or_default());
    let made = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", &new).await?;
    ensure!(made.status == 200, "/new: {}", made.head);
    Ok(())
}
