//! Silent connections do not block any port for other clients, and daemons behind the front on port 443 know the
//! address of each client.

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

/// Number of connections to each port. Those to nginx exceed the limit per address of its front, and nginx's default of
/// 512 connections; each of those to Postfix occupies a process.
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
/// Ports on which nginx closes silent connections.
const NGINX: [u16; 3] = [443, 80, 8443];
/// Time within which nginx closes them on a busy machine.
const ENDED: Duration = Duration::from_secs(60);
/// Timeout of one connection.
const CONNECTED: Duration = Duration::from_secs(10);

/// Maximum number of sessions of one address with an SMTP server on relay c.
const SHARE: usize = 12;

/// Opens connections from an address of the host. It does not matter whether the server refuses or closes some of them.
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

/// Checks every port, and every service behind port 443, as an ordinary client.
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
    // ACME servers connect to this port.
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
    // The limit of this process: each connection is an open file.
    let process = format!("--pid={}", std::process::id());
    let raised = Command::new("prlimit")
        .args([&process, "--nofile=8000:"])
        .status()
        .await
        .context("cannot run prlimit")?;
    ensure!(raised.success(), "cannot raise the limit of open files: {raised}");

    let mut connections = Vec::new();
    for (port, count) in SILENT {
        let streams = silent(from, peer.port(port), count).await?;
        ensure!(!streams.is_empty(), "port {port} accepts no connection");
        connections.push((port, streams));
    }
    works(&peer).await.context("during silent connections")?;
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

/// Behind the front too, Postfix limits the sessions of each address, and Dovecot knows the address.
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
        "Dovecot does not see the address {host}: {who}"
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
