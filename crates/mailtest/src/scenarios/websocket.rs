//! IMAP and submission over WebSocket, at `/imap` and `/smtp` on port 443.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

use super::Context;
use crate::client::imap::{Imap, Status};
use crate::client::smtp::Smtp;
use crate::client::wire::{Wire, WireError};
use crate::client::{Account, Peer, arrival, pgp, websocket};
use crate::until;

const WITHIN: Duration = Duration::from_secs(60);
/// Size of a message that the client sends in few frames.
const LARGE: usize = 3_000_000;
/// Dovecot delays the response to a wrong password (`auth_failure_delay`, 2 s).
const FAILURE_DELAY: Duration = Duration::from_secs(1);
/// Rejected passwords after which both ways in have ended the session.
const MAX_FAILURES: usize = 60;
/// Frames that carry nothing.
const EMPTY: usize = 20_000;

async fn imap(account: &Account) -> anyhow::Result<Imap> {
    let mut imap = websocket::imap(&account.peer).await?;
    imap.login(&account.address, &account.password).await?.ok()?;
    Ok(imap)
}

async fn smtp(account: &Account) -> anyhow::Result<Smtp> {
    let mut smtp = websocket::smtp(&account.peer).await?;
    smtp.ehlo("[127.0.0.1]").await?;
    let reply = smtp.auth_plain(&account.address, &account.password).await?;
    reply.expect(235)?;
    Ok(smtp)
}

/// Two users who have nothing but WebSockets write to each other.
pub(super) async fn clients(context: &Context) -> anyhow::Result<()> {
    let sender = Account::random(&context.peer("a")?);
    imap(&sender).await.context("signing up over WebSocket")?;
    for relay in ["a", "b"] {
        let receiver = Account::random(&context.peer(relay)?);
        let mut imap = imap(&receiver).await?;
        let capabilities = imap.command("CAPABILITY").await?.ok()?;
        ensure!(
            !format!("{capabilities:?}").contains("STARTTLS"),
            "STARTTLS within TLS"
        );
        for (number, size) in [2000, LARGE].into_iter().enumerate() {
            let number = u32::try_from(number)?;
            ensure!(imap.select_inbox().await? == number, "not {number} messages");
            let mut idle = imap.idle().await?;
            let message = pgp::encrypted(&sender.address, size);
            let mut smtp = smtp(&sender).await?;
            let sent = smtp
                .send(&sender.address, &[&receiver.address], &message.bytes())
                .await?;
            sent.expect(250)?;
            idle.exists(number + 1, WITHIN)
                .await
                .context("IDLE over WebSocket")?;
            idle.done().await?;
            let stored = arrival(&mut imap, message.id(), WITHIN).await?;
            ensure!(stored.len() > size, "only {} bytes arrived", stored.len());
        }
    }
    Ok(())
}

/// Tries wrong passwords until the server ends the session; returns how many it rejected.
async fn failures_over_smtp(mut smtp: Smtp, account: &Account) -> anyhow::Result<usize> {
    smtp.ehlo("[127.0.0.1]").await?;
    for failures in 0..MAX_FAILURES {
        match smtp.auth_plain(&account.address, "not-the-password").await {
            Ok(reply) if reply.code == 421 => return Ok(failures),
            Ok(reply) => {
                reply.expect_start("535 5.7.8 ")?;
            }
            Err(_) => return Ok(failures),
        }
    }
    bail!("{MAX_FAILURES} wrong passwords in one session")
}

/// Returns the response to a wrong password over IMAP, and how long it took.
async fn failure_over_imap(mut imap: Imap, account: &Account) -> anyhow::Result<(String, Duration)> {
    let begin = Instant::now();
    let done = imap.login(&account.address, "not-the-password").await?;
    ensure!(done.status == Status::No, "LOGIN: {}", done.text);
    Ok((done.text, begin.elapsed()))
}

/// Wrong passwords are rejected with the replies of the mail ports, and end the session as early.
pub(super) async fn passwords(context: &Context) -> anyhow::Result<()> {
    let account = context.account("a").await?;
    let peer = &account.peer;
    let port = Smtp::connect_tls(peer.port(465), &peer.tls, &peer.domain).await?;
    let (at_port, over_socket) = tokio::try_join!(
        failures_over_smtp(port, &account),
        failures_over_smtp(websocket::smtp(peer).await?, &account),
    )?;
    ensure!(
        at_port == over_socket,
        "{at_port} wrong passwords on port 465, {over_socket} over WebSocket"
    );
    let (at_port, _) = failure_over_imap(peer.imap().await?, &account).await?;
    let (over_socket, delay) = failure_over_imap(websocket::imap(peer).await?, &account).await?;
    ensure!(
        at_port == over_socket,
        "{at_port} on port 993, {over_socket} over WebSocket"
    );
    ensure!(
        delay > FAILURE_DELAY,
        "a wrong password is rejected within {delay:?}"
    );
    let mut unknown = websocket::smtp(peer).await?;
    unknown.ehlo("[127.0.0.1]").await?;
    let reply = unknown
        .command(&format!("MAIL FROM:<{}>", account.address))
        .await?;
    ensure!(!reply.is_positive() || !unknown.command("RCPT TO:<x@a.test>").await?.is_positive());
    Ok(())
}

/// Returns the status of a request with more header fields.
async fn status(peer: &Peer, path: &str, fields: &str) -> anyhow::Result<u16> {
    let (_, lines) = websocket::request(peer, path, fields).await?;
    websocket::status(&lines).with_context(|| format!("no status: {lines:?}"))
}

/// Requests that open no session.
pub(super) async fn requests(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer("a")?;
    let own = format!("origin: https://{}\r\n", peer.domain);
    for (path, fields, expected) in [
        ("/imap", "", 101),
        ("/smtp", own.as_str(), 101),
        ("/imap", "origin: https://evil.example\r\n", 403),
        ("/smtp", "origin: null\r\n", 403),
        ("/imap/", "", 404),
        ("/imap/x", "", 404),
        ("/pop3", "", 404),
        // A second version, and a second key.
        ("/imap", "sec-websocket-version: 8\r\n", 101),
        ("/imap", "x-real-ip: 192.0.2.77\r\n", 101),
    ] {
        let got = status(&peer, path, fields).await?;
        ensure!(got == expected, "{path} with {fields:?}: {got}, not {expected}");
    }
    let (_, lines) = websocket::request(&peer, "/imap", "sec-websocket-protocol: binary\r\n").await?;
    ensure!(
        lines
            .iter()
            .any(|line| line.eq_ignore_ascii_case("sec-websocket-protocol: binary")),
        "the subprotocol is not confirmed: {lines:?}"
    );

    for request in [
        format!("GET /imap HTTP/1.1\r\nhost: {}\r\n\r\n", peer.domain),
        format!("HEAD /imap HTTP/1.1\r\nhost: {}\r\n\r\n", peer.domain),
        format!(
            "POST /smtp HTTP/1.1\r\nhost: {}\r\ncontent-length: 0\r\n\r\n",
            peer.domain
        ),
        format!(
            "GET /imap HTTP/1.1\r\nhost: {}\r\nconnection: upgrade\r\nupgrade: h2c\r\n\r\n",
            peer.domain
        ),
    ] {
        let mut wire = Wire::connect_tls(peer.port(443), &peer.tls, &peer.domain).await?;
        wire.write(request.as_bytes()).await?;
        let lines = websocket::response(&mut wire).await?;
        let expected = if request.starts_with("GET ") { 426 } else { 400 };
        ensure!(
            websocket::status(&lines) == Some(expected),
            "{request}: {lines:?}"
        );
    }

    // A handshake that never ends.
    let mut wire = Wire::connect_tls(peer.port(443), &peer.tls, &peer.domain).await?;
    let head = format!(
        "GET /imap HTTP/1.1\r\nhost: {}\r\nupgrade: websocket\r\nx-more: ",
        peer.domain
    );
    wire.write(head.as_bytes()).await?;
    let rest = wire
        .read_to_end(1024)
        .await
        .context("a handshake that never ends")?;
    ensure!(
        !rest.starts_with(b"HTTP/1.1 101"),
        "a session without a handshake"
    );
    Ok(())
}

/// Opens a session and reads the greeting.
async fn greeted(peer: &Peer, path: &str) -> anyhow::Result<Wire> {
    let open = || async {
        let (mut wire, lines) = websocket::request(peer, path, "").await?;
        ensure!(websocket::status(&lines) == Some(101), "{path}: {lines:?}");
        let (first, greeting) = websocket::read_frame(&mut wire).await?;
        ensure!(first == 0x82 && !greeting.is_empty(), "{path}: no greeting");
        // Scenarios beside this one may have all sessions that one client address gets.
        Ok((!greeting.starts_with(b"421 ")).then_some(wire))
    };
    until(WITHIN, open)
        .await
        .with_context(|| format!("{path}: no session"))
}

/// Frames that a session does not consist of, and unusual ones that it does.
pub(super) async fn frames(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer("a")?;
    let frame = websocket::frame;
    let noop = frame(0x82, b"x noop\r\n");
    let closed: [(&str, Vec<u8>, u16); 11] = [
        ("text", frame(0x81, b"x noop\r\n"), 1003),
        (
            "text after a message",
            [noop.clone(), frame(0x81, b"")].concat(),
            1003,
        ),
        ("a reserved opcode", frame(0x83, b""), 1002),
        ("a reserved bit", frame(0xC2, b"x"), 1002),
        ("a frame without a mask", b"\x82\x02hi".to_vec(), 1002),
        ("an impossible length", websocket::header(0x82, u64::MAX), 1002),
        ("a large ping", frame(0x89, &[0; 126]), 1002),
        ("a ping in parts", frame(0x09, b"x"), 1002),
        ("the end of no message", frame(0x80, b"x"), 1002),
        (
            "a message within another",
            [frame(0x02, b"x"), noop.clone()].concat(),
            1002,
        ),
        ("close", frame(0x88, &1000u16.to_be_bytes()), 1000),
    ];
    for path in ["/imap", "/smtp"] {
        for (what, bytes, code) in &closed {
            let mut wire = greeted(&peer, path).await?;
            wire.write(bytes).await?;
            let got = websocket::close_code(&mut wire)
                .await
                .with_context(|| (*what).to_owned())?;
            ensure!(got == *code, "{path}, {what}: closed with {got}, not {code}");
            let rest = wire.read_to_end(1024).await?;
            ensure!(rest.is_empty(), "{path}, {what}: bytes after the close frame");
        }
    }

    // A command in pieces, among thousands of frames that carry nothing.
    let mut wire = greeted(&peer, "/imap").await?;
    let mut flood = frame(0x02, b"x no");
    for _ in 0..EMPTY {
        flood.extend(frame(0x00, b""));
    }
    flood.extend(frame(0x89, b"are you there"));
    flood.extend(frame(0x80, b"op\r\n"));
    wire.write(&flood).await?;
    let (mut pong, mut done) = (false, false);
    while !(pong && done) {
        match websocket::read_frame(&mut wire).await? {
            (0x8A, payload) => pong = payload == b"are you there",
            (0x82, reply) => done = reply.starts_with(b"x OK"),
            other => bail!("not a reply: {other:?}"),
        }
    }

    // More pings than anybody reads answers to: the relay neither collects them nor stops.
    let mut wire = greeted(&peer, "/imap").await?;
    let pings = frame(0x89, &[7; 125]).repeat(EMPTY);
    wire.write(&pings).await?;
    wire.write(&noop).await?;
    loop {
        if let (0x82, reply) = websocket::read_frame(&mut wire).await? {
            ensure!(reply.starts_with(b"x OK"), "{reply:?}");
            break;
        }
    }

    // One frame that never ends carries commands like any other.
    let mut wire = greeted(&peer, "/imap").await?;
    let mut endless = websocket::header(0x82, i64::MAX as u64);
    endless.extend(frame(0, b"x noop\r\n").split_off(6));
    wire.write(&endless).await?;
    let (_, reply) = websocket::read_frame(&mut wire).await?;
    ensure!(reply.starts_with(b"x OK"), "{reply:?}");

    // The end of a session reaches the client.
    let mut wire = greeted(&peer, "/imap").await?;
    wire.write(&frame(0x82, b"x logout\r\n")).await?;
    ensure!(websocket::close_code(&mut wire).await? == 1000, "LOGOUT");
    let end = wire.read_exact(1).await;
    ensure!(matches!(end, Err(WireError::Closed)), "not closed: {end:?}");
    Ok(())
}
