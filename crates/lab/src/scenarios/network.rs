//! Restrictive networks, and hosts that serve more than the relay.

use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use mailtest::client::deltachat::Pair;
use mailtest::client::http;
use mailtest::scenarios::chat::messages;
use tokio::process::Command;

use super::Context;
use crate::machine::guest_network;

/// Whether a client in the guest network can connect to a port of a relay.
async fn reaches(context: &Context, relay: &str, port: u16) -> anyhow::Result<bool> {
    let address = context.peer(relay)?.port(port);
    let status = Command::new("nsenter")
        .arg(format!("--net={}", guest_network().display()))
        .args(["timeout", "10", "bash", "-c"])
        .arg(format!("</dev/tcp/{}/{}", address.ip(), address.port()))
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .status()
        .await
        .context("cannot run nsenter")?;
    Ok(status.success())
}

/// Delta Chat discovers without configuration that port 443 also serves IMAP and SMTP.
pub(super) async fn only_443(context: &Context) -> anyhow::Result<()> {
    const RELAY: &str = "b";
    for port in [25, 143, 465, 587, 993] {
        ensure!(!reaches(context, RELAY, port).await?, "port {port} is not closed");
    }
    ensure!(reaches(context, RELAY, 443).await?, "port 443 is closed");
    let domain = context.peer(RELAY)?.domain;
    let program = context.program().await?;
    let one = program.user_within(&guest_network(), "alice", &domain).await?;
    let other = program.user("bob", &context.peer("a")?.domain).await?;
    messages(&Pair::verify(one, other).await?).await
}

/// The host can serve another web site, with its own certificate, on port 443 beside the relay's.
pub(super) async fn own_site(context: &Context) -> anyhow::Result<()> {
    const RELAY: &str = "c";
    const TEXT: &str = "A site of the host.\n";
    let peer = context.peer(RELAY)?;
    let name = format!("site.{}", peer.domain);
    let folder = context.machines().root(RELAY).join("srv/site");
    fs::create_dir_all(&folder)?;
    fs::write(folder.join("index.html"), TEXT)?;
    // The client accepts a certificate only for the name that it requests.
    let page = http::request(peer.port(443), &peer.tls, &name, "GET", "/").await?;
    ensure!(
        page.status == 200 && page.body == TEXT.as_bytes(),
        "the site: {}",
        page.head
    );
    let plain = http::get_plain(peer.port(80), &name, "/x").await?;
    let wanted = format!("https://{name}/x");
    ensure!(
        plain.status == 301 && plain.field("location") == Some(wanted.as_str()),
        "port 80: {}",
        plain.head
    );
    for path in ["/new", "/.well-known/autoconfig/mail/config-v1.1.xml"] {
        let answer = http::request(peer.port(443), &peer.tls, &name, "GET", path).await?;
        ensure!(
            answer.status == 404,
            "the site serves {path} of the relay: {}",
            answer.head
        );
    }
    // nginx sees the visitor's real address behind the front, so a site for the host only remains closed.
    let inside = http::request(peer.port(443), &peer.tls, &name, "GET", "/inside").await?;
    ensure!(inside.status == 403, "a site for the host only: {}", inside.head);
    let local = format!(
        "curl --silent --insecure --resolve {name}:8443:127.0.0.1 --output /dev/null --write-out '%{{http_code}}' \
         https://{name}:8443/inside"
    );
    let local = context.run(RELAY, &["sh", "-c", &local]).await?;
    ensure!(local == "404", "the same from the host: {local}");
    let log = context.run(RELAY, &["cat", "/var/log/nginx/access.log"]).await?;
    let visitor = format!("{} - -", context.topology.host);
    ensure!(
        log.lines()
            .any(|line| line.starts_with(&visitor) && line.contains("/inside")),
        "the log of the site does not contain its visitor's address"
    );
    let forged = [
        "runuser",
        "-u",
        "nobody",
        "--",
        "test",
        "-w",
        "/run/nginx/chatmail-https.socket",
    ];
    let forged = context.machines().exec(RELAY, &forged).await?;
    ensure!(
        !forged.status.success(),
        "any process can claim a client address to nginx"
    );
    let relay = http::request(peer.port(443), &peer.tls, &peer.domain, "GET", "/").await?;
    ensure!(
        relay.status == 200 && relay.body != TEXT.as_bytes(),
        "the relay: {}",
        relay.head
    );
    Ok(())
}
