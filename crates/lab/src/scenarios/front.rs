//! Who keeps connections open and says nothing closes no port for others, and daemons behind the front on port 443 know
//! the address of each client.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::smtp::Smtp;
use mailtest::client::{Peer, http, outside};
use tokio::io::AsyncReadExt as _;
use tokio::net::{TcpSocket, TcpStream};
use tokio::process::Command;
use tokio::time::timeout;

use super::Context;
use crate::machine;

/// Connections to each port. Those to nginx are more than one address gets of its front, and more than the 512 that nginx
/// has where nothing is said; those to Postfix each take a process there.
const SILENT: [(u16, usize); 8] = [
    (443, 3000),
    (80, 700),
    (8443, 700),
    (143, 700),
    (993, 700),
    (25, 60),
    (465, 60),
    (587, 60),
];
/// Ports whose silent connections nginx ends.
const NGINX: [u16; 3] = [443, 80, 8443];
/// How long it may take for that on a busy machine.
const ENDED: Duration = Duration::from_secs(60);
/// How long one connection may take to come about.
const CONNECTED: Duration = Duration::from_secs(10);

/// The part of an SMTP server's sessions that one address gets on relay c.
const SHARE: usize = 12;

/// Connects from an address of the host's. A connection that is refused or closed at once is as good as one that stays.
async fn silent(from: Ipv4Addr, to: SocketAddr, count: usize) -> anyhow::Result<Vec<TcpStream>> {
    let mut streams = Vec::new();
    for _ in 0..count {
        let socket = TcpSocket::new_v4()?;
        socket.bind((from, 0).into())?;
        if let Ok(Ok(stream)) = timeout(CONNECTED, socket.connect(to)).await {
            streams.push(stream);
        }
    }
    Ok(streams)
}

/// Every port and everything behind port 443, for a client that does speak.
async fn works(peer: &Peer) -> anyhow::Result<()> {
    let (address, domain, tls) = (peer.port(443), &peer.domain, &peer.tls);
    for (method, path) in [("GET", "/"), ("POST", "/new")] {
        let answer = http::request(address, tls, domain, method, path).await?;
        ensure!(answer.status == 200, "{path}: {}", answer.head);
    }
    Imap::connect_tls(address, &tls.clone().alpn("imap"), domain)
        .await
        .context("IMAP on port 443")?;
    let smtp = Smtp::connect_tls(address, &tls.clone().alpn("smtp"), domain).await?;
    ensure!(smtp.greeting().code == 220, "port 443: {}", smtp.greeting());
    let direct = http::request(peer.port(8443), tls, domain, "GET", "/").await?;
    ensure!(direct.status == 200, "port 8443: {}", direct.head);
    // Where an ACME server asks.
    let plain = http::get_plain(peer.port(80), domain, "/.well-known/acme-challenge/x").await?;
    ensure!([301, 404].contains(&plain.status), "port 80: {}", plain.head);
    peer.exchange(outside::DOMAIN).await.context("port 25")?;
    peer.submission().await.context("port 465")?;
    peer.submission_starttls().await.context("port 587")?;
    peer.imap().await.context("port 993")?;
    let imap = Imap::connect(peer.port(143)).await?;
    imap.starttls(tls, domain).await.context("port 143")?;
    Ok(())
}

pub(super) async fn idle_connections(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer("a")?;
    let from = machine::other_host_address()?;
    // Of this process: each connection is a file.
    let process = format!("--pid={}", std::process::id());
    let raised = Command::new("prlimit")
        .args([&process, "--nofile=8000:"])
        .status()
        .await
        .context("cannot run prlimit")?;
    ensure!(raised.success(), "cannot have as many connections: {raised}");

    let mut connections = Vec::new();
    for (port, count) in SILENT {
        let streams = silent(from, peer.port(port), count).await?;
        ensure!(!streams.is_empty(), "port {port} takes no connection");
        connections.push((port, streams));
    }
    works(&peer).await.context("while others are silent")?;
    for (port, streams) in connections {
        if !NGINX.contains(&port) {
            continue;
        }
        for mut stream in streams {
            let end = timeout(ENDED, stream.read(&mut [0; 1])).await;
            let end = end.with_context(|| format!("a silent connection to port {port} stays open"))?;
            ensure!(matches!(end, Ok(0) | Err(_)), "nginx speaks first on port {port}");
        }
    }
    works(&peer).await.context("afterwards")
}

/// Postfix limits the sessions of one address and Dovecot knows it, also behind the front.
pub(super) async fn addresses(context: &Context) -> anyhow::Result<()> {
    const RELAY: &str = "c";
    let peer = context.peer(RELAY)?;
    let (address, domain) = (peer.port(443), &peer.domain);

    let account = context.account(RELAY).await?;
    let mut imap = Imap::connect_tls(address, &peer.tls.clone().alpn("imap"), domain).await?;
    imap.login(&account.address, &account.password).await?.ok()?;
    imap.select_inbox().await?;
    let who = context.run(RELAY, &["doveadm", "who", &account.address]).await?;
    let host = context.topology.host.to_string();
    ensure!(
        who.contains(&host) && !who.contains("127.0.0.1"),
        "Dovecot sees other addresses than {host}: {who}"
    );

    let mut sessions = Vec::new();
    let smtp = peer.tls.clone().alpn("smtp");
    for _ in 0..SHARE {
        let session = Smtp::connect_tls(address, &smtp, domain).await?;
        ensure!(session.greeting().code == 220, "{}", session.greeting());
        sessions.push(session);
    }
    let more = Smtp::connect_tls(address, &smtp, domain).await?;
    ensure!(
        more.greeting().code == 421,
        "session {} of one address: {}",
        SHARE + 1,
        more.greeting()
    );
    let other = format!("echo QUIT | openssl s_client -quiet -alpn smtp -connect {address} 2>/dev/null");
    let other = context.run("b", &["sh", "-c", &other]).await?;
    ensure!(other.contains("220 "), "another address: {other}");
    Ok(())
}
