//! Whole sessions of the outgoing filter.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use chatmail_core::federation::Rules;
use filtermail::check::Verdict;
use filtermail::policy::Outgoing;
use filtermail::rate::SendLimit;
use filtermail::reply::Reply;
use filtermail::smtp::{Admission, Envelope, Large, Policy, Server, serve_connection};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::TcpListener;

use crate::fixtures::messages;
use crate::relay::{Client, LARGE, TURNS, connect, postfix, postfix_at, server};

const ALICE: &str = "alice@_a.test";
const BOB: &str = "bob@_b.test";

fn policy(burst: u32) -> Outgoing {
    let limit = SendLimit::new(1.try_into().unwrap(), burst.try_into().unwrap());
    Outgoing::new(limit, Rules::default(), LARGE)
}

/// Rules that block `_b.test`.
pub(crate) fn blocking() -> Rules {
    let sample = include_str!("../../../chatmail-core/testdata/settings.json");
    let mut settings = chatmail_core::Settings::parse(sample, std::path::Path::new("sample")).unwrap();
    settings.domain = "_a.test".to_owned();
    settings.federation.block = vec!["_b.test".to_owned()];
    Rules::new(&settings)
}

async fn client(reinject: std::net::SocketAddr) -> Client {
    connect(&Arc::new(server(policy(100), reinject))).await
}

fn encrypted() -> Vec<u8> {
    messages("passes").remove(0).1
}

#[tokio::test]
async fn messages_come_back_unchanged_on_one_connection() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok: queued as X").await;
    let mut client = client(address).await;
    for (name, message) in messages("passes") {
        assert_eq!(
            client.send(ALICE, &[BOB], &message).await,
            "250 2.0.0 Ok: queued as X",
            "{name}"
        );
        let got = delivered.recv().await.unwrap();
        assert_eq!(got.data, message, "{name}");
        assert_eq!(
            got.commands,
            ["MAIL FROM:<alice@_a.test>", "RCPT TO:<bob@_b.test>"]
        );
    }
    assert_eq!(client.say("QUIT").await, "221 2.0.0 Bye");
    assert_eq!(client.rest().await, "");
}

#[tokio::test]
async fn messages_come_back_through_a_unix_socket() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("reinject.socket");
    let mut delivered = postfix_at(&path, "250 2.0.0 Ok");
    let reinject = chatmail_core::Endpoint::Unix(path);
    let mut client = connect(&Arc::new(server(policy(100), reinject))).await;
    assert_eq!(client.send(ALICE, &[BOB], &encrypted()).await, "250 2.0.0 Ok");
    assert_eq!(delivered.recv().await.unwrap().data, encrypted());
}

/// A Postfix that notes the largest number of messages that it receives at once.
async fn busy_postfix() -> (std::net::SocketAddr, Arc<Mutex<(usize, usize)>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let counts = Arc::new(Mutex::new((0, 0)));
    let shared = Arc::clone(&counts);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let counts = Arc::clone(&shared);
            tokio::spawn(async move {
                let mut lines = BufReader::new(stream);
                lines.write_all(b"220 sink\r\n").await.unwrap();
                let (mut line, mut in_data) = (String::new(), false);
                while lines.read_line(&mut line).await.unwrap() > 0 {
                    let reply: &[u8] = match line.as_str() {
                        "DATA\r\n" => {
                            in_data = true;
                            let (now, most) = &mut *counts.lock().unwrap();
                            *now += 1;
                            *most = (*now).max(*most);
                            b"354 go\r\n"
                        }
                        ".\r\n" => {
                            in_data = false;
                            // Others get as far as they can.
                            for _ in 0..1000 {
                                tokio::task::yield_now().await;
                            }
                            counts.lock().unwrap().0 -= 1;
                            b"250 2.0.0 Ok\r\n"
                        }
                        _ if in_data => b"",
                        _ => b"250 2.0.0 Ok\r\n",
                    };
                    lines.write_all(reply).await.unwrap();
                    line.clear();
                }
            });
        }
    });
    (address, counts)
}

#[tokio::test]
async fn messages_wait_for_their_turn() {
    let (address, counts) = busy_postfix().await;
    let server = Arc::new(server(policy(100), address));
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..10 * TURNS {
        let mut client = connect(&server).await;
        senders.spawn(async move { client.send(ALICE, &[BOB], &encrypted()).await });
    }
    while let Some(reply) = senders.join_next().await {
        assert_eq!(reply.unwrap(), "250 2.0.0 Ok");
    }
    assert_eq!(*counts.lock().unwrap(), (0, TURNS));
}

#[tokio::test]
async fn all_at_once_and_byte_by_byte_are_the_same() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let mut wire =
        format!("EHLO x\r\nMAIL FROM:<{ALICE}> BODY=8BITMIME\r\nRCPT TO:<{BOB}> NOTIFY=NEVER\r\nDATA\r\n")
            .into_bytes();
    wire.extend(filtermail::smtp::stuffed(&encrypted()).flatten());
    wire.extend_from_slice(b"NOOP\r\nQUIT\r\n");
    for size in [1, 7, wire.len()] {
        let mut client = client(address).await;
        for piece in wire.chunks(size) {
            client.write(piece).await;
        }
        let mut codes = Vec::new();
        for line in client.rest().await.lines() {
            if line.as_bytes()[3] == b' ' {
                codes.push(line[..3].to_owned());
            }
        }
        assert_eq!(codes, ["250", "250", "250", "354", "250", "250", "221"]);
        let got = delivered.recv().await.unwrap();
        assert_eq!(
            got.commands,
            [
                "MAIL FROM:<alice@_a.test> BODY=8BITMIME",
                "RCPT TO:<bob@_b.test> NOTIFY=NEVER"
            ]
        );
    }
}

#[tokio::test]
async fn what_is_refused_never_reaches_postfix() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let mut client = client(address).await;
    for (name, message) in messages("never") {
        let reply = client.send(ALICE, &[BOB], &message).await;
        assert_eq!(reply, "523 Encryption Needed: Invalid Unencrypted Mail", "{name}");
    }
    assert_eq!(
        client.send("carol@_a.test", &[BOB], &encrypted()).await,
        "500 Invalid FROM <alice@_a.test> for <carol@_a.test>"
    );
    assert_eq!(
        client.send("carol", &[BOB], b"").await,
        "500 Invalid from address <carol>"
    );
    let large = "x".repeat(98) + "\r\n";
    assert_eq!(
        client.send(ALICE, &[BOB], large.repeat(1001).as_bytes()).await,
        "552 Message exceeds maximum size"
    );
    assert_eq!(
        client.say("MAIL FROM:<alice@_a.test> SIZE=100001").await,
        "552 Message exceeds maximum size"
    );
    assert_eq!(
        client
            .send(
                ALICE,
                &[BOB],
                b"From: alice@_a.test\r\n\r\na\n.\nMAIL FROM:<x@_a.test>\r\n"
            )
            .await,
        "550 5.5.2 Bare CR or LF in message"
    );
    // The connection still works, and the first message to arrive is the first that passed.
    assert_eq!(client.send(ALICE, &[BOB], &encrypted()).await, "250 2.0.0 Ok");
    assert_eq!(delivered.recv().await.unwrap().data, encrypted());
    assert!(delivered.try_recv().is_err());
}

#[tokio::test]
async fn postfix_has_the_last_word() {
    let (full, _delivered) = postfix("452 4.3.1 Insufficient system storage").await;
    let mut first = client(full).await;
    assert_eq!(
        first.send(ALICE, &[BOB], &encrypted()).await,
        "452 4.3.1 Insufficient system storage"
    );
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let mut second = client(address).await;
    assert_eq!(
        second.send(ALICE, &[BOB, "refused@_b.test"], &encrypted()).await,
        "550 5.1.1 No such user"
    );
    assert!(delivered.try_recv().is_err(), "all recipients get it or none");
    assert_eq!(second.send(ALICE, &[BOB], &encrypted()).await, "250 2.0.0 Ok");
}

#[tokio::test]
async fn without_postfix_the_client_tries_again_later() {
    let closed = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let reply = client(closed).await.send(ALICE, &[BOB], &encrypted()).await;
    assert_eq!(reply, "451 4.3.0 Mail server temporarily unavailable");
}

#[tokio::test]
async fn a_thousand_recipients_get_one_message() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let mut client = client(address).await;
    let to: Vec<String> = (0..1000).map(|n| format!("{n}@_b.test")).collect();
    let to: Vec<&str> = to.iter().map(String::as_str).collect();
    assert_eq!(client.send(ALICE, &to, &encrypted()).await, "250 2.0.0 Ok");
    assert_eq!(delivered.recv().await.unwrap().commands.len(), 1001);
    client.say(&format!("MAIL FROM:<{ALICE}>")).await;
    for to in &to {
        client.say(&format!("RCPT TO:<{to}>")).await;
    }
    assert_eq!(
        client.say("RCPT TO:<x@_b.test>").await,
        "452 4.5.3 Too many recipients"
    );
}

#[tokio::test]
async fn the_rate_limit_begins_after_the_burst() {
    let (address, _delivered) = postfix("250 2.0.0 Ok").await;
    let shared = Arc::new(server(policy(3), address));
    let mut client = connect(&shared).await;
    for _ in 0..3 {
        assert_eq!(client.send(ALICE, &[BOB], &encrypted()).await, "250 2.0.0 Ok");
    }
    let reply = client.say(&format!("MAIL FROM:<{ALICE}>")).await;
    assert!(
        reply.starts_with("450 4.7.1: Too much mail from alice@_a.test, "),
        "{reply}"
    );
    assert_eq!(client.rest().await, "", "the connection ends");
    let mut other = connect(&shared).await;
    other.say("EHLO x").await;
    assert_eq!(other.say("MAIL FROM:<carol@_a.test>").await, "250 2.1.0 Ok");
}

#[tokio::test]
async fn commands_out_of_order_and_malformed() {
    let (address, _delivered) = postfix("250 2.0.0 Ok").await;
    let mut client = client(address).await;
    assert_eq!(
        client.say(&format!("MAIL FROM:<{ALICE}>")).await,
        "503 5.5.1 Bad sequence of commands"
    );
    client.say("HELO x").await;
    assert_eq!(client.say("DATA").await, "503 5.5.1 Bad sequence of commands");
    assert_eq!(
        client.say("RCPT TO:<a@b>").await,
        "503 5.5.1 Bad sequence of commands"
    );
    assert_eq!(client.say(&"x".repeat(20_000)).await, "500 5.5.2 Line too long");
    assert_eq!(client.say("BDAT 5 LAST").await, "500 5.5.1 Unknown command");
    assert_eq!(client.say("VRFY alice").await, "252 2.0.0 Cannot verify");
    client.write("NOOP\n").await;
    assert_eq!(
        client.reply().await,
        "501 5.5.4 Syntax error",
        "a bare LF ends no command"
    );
    assert_eq!(client.say(&format!("MAIL FROM:<{ALICE}>")).await, "250 2.1.0 Ok");
    assert_eq!(client.say("RSET").await, "250 2.0.0 Ok");
    assert_eq!(
        client.say(&format!("RCPT TO:<{BOB}>")).await,
        "503 5.5.1 Bad sequence of commands"
    );
}

fn idle_server() -> Arc<Server<Outgoing>> {
    Arc::new(server(
        policy(1),
        "127.0.0.1:9".parse::<chatmail_core::Endpoint>().unwrap(),
    ))
}

#[tokio::test(start_paused = true)]
async fn silence_ends_a_session() {
    for said in [
        "",
        "EHLO x\r\nMAIL FROM:<alice@_a.test>\r\nRCPT TO:<bob@_b.test>\r\nDATA\r\nFrom: x\r\n",
    ] {
        let server = idle_server();
        let (mut near, far) = tokio::io::duplex(4096);
        let begin = tokio::time::Instant::now();
        let session = tokio::spawn(async move { serve_connection(&server, far).await });
        near.write_all(said.as_bytes()).await.unwrap();
        let mut heard = String::new();
        near.read_to_string(&mut heard).await.unwrap();
        assert!(
            heard.ends_with("421 4.4.2 Timeout, closing connection\r\n"),
            "{heard}"
        );
        assert_eq!(begin.elapsed().as_secs(), 300);
        drop(near);
        session.await.unwrap();
    }
}

#[tokio::test]
async fn shutdown_ends_idle_sessions_at_once() {
    let server = idle_server();
    let mut client = connect(&server).await;
    server.shutdown.cancel();
    let rest = tokio::time::timeout(Duration::from_secs(5), client.rest())
        .await
        .unwrap();
    assert_eq!(rest, "421 4.3.2 Service shutting down\r\n");
}

/// A policy that cannot pass messages on.
struct Down;

impl Policy for Down {
    fn sender(&self, _address: &str) -> Admission {
        Admission::Accept
    }

    fn recipient(&self, address: &str) -> Admission {
        if address == BOB {
            Admission::Accept
        } else {
            Admission::Close(Reply::NOT_OVER_HTTPS)
        }
    }

    fn holders(&self, _envelope: &Envelope) -> Vec<String> {
        Vec::new()
    }

    async fn judge(&self, _envelope: &mut Envelope, _message: &Bytes) -> Verdict {
        Verdict::Unanswered
    }
}

/// Postfix suspends deliveries to a destination only if no server on the way has completed a session.
#[tokio::test]
async fn a_server_that_is_down_completes_no_session() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let server = Arc::new(server(Down, address));
    let mut client = connect(&server).await;
    assert_eq!(client.send(ALICE, &[BOB], &encrypted()).await, "");
    let mut client = connect(&server).await;
    client.say("EHLO test").await;
    client
        .write("MAIL FROM:<alice@_a.test>\r\nRCPT TO:<a@dead.test>\r\nDATA\r\n")
        .await;
    assert_eq!(client.reply().await, "250 2.1.0 Ok");
    assert_eq!(client.rest().await, "421 4.4.1 No delivery over HTTPS\r\n");
    assert!(delivered.try_recv().is_err());
}

#[tokio::test]
async fn blocked_recipients_are_rejected_even_if_postfix_has_not_asked() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let limit = SendLimit::new(1.try_into().unwrap(), 100.try_into().unwrap());
    let server = Arc::new(server(Outgoing::new(limit, blocking(), LARGE), address));
    let mut client = connect(&server).await;
    let reply = "554 5.7.1 This relay exchanges no mail with _b.test";
    client.say("EHLO test").await;
    assert_eq!(client.say(&format!("MAIL FROM:<{ALICE}>")).await, "250 2.1.0 Ok");
    for to in [BOB, "bob@_B.test.", "bob@_b.test@_a.test"] {
        assert_eq!(client.say(&format!("RCPT TO:<{to}>")).await, reply, "{to}");
    }
    assert_eq!(client.say("DATA").await, "503 5.5.1 Bad sequence of commands");
    assert_eq!(
        client.send(ALICE, &["carol@_a.test"], &encrypted()).await,
        "250 2.0.0 Ok"
    );
    assert_eq!(
        delivered.recv().await.unwrap().commands[1],
        "RCPT TO:<carol@_a.test>"
    );
}

#[tokio::test]
async fn a_full_queue_of_large_messages_is_said_before_data() {
    let (address, _delivered) = postfix("250 2.0.0 Ok").await;
    let mut server = server(policy(100), address);
    server.max_message_size = 10_000_000;
    server.large = Large::new(LARGE, Duration::ZERO);
    server.trusts_sizes = true;
    let server = Arc::new(server);
    let begin = async |from: &str| {
        let mut client = connect(&server).await;
        client.say("EHLO test").await;
        client.say(&format!("MAIL FROM:<{from}> SIZE=2000000")).await;
        client.say(&format!("RCPT TO:<{BOB}>")).await;
        let reply = client.say("DATA").await;
        (client, reply)
    };
    let (go, busy) = ("354 End data with <CR><LF>.<CR><LF>", "421 4.3.2 Transport busy");
    let mut held = Vec::new();
    for n in 0..LARGE.at_once {
        let (client, reply) = begin(&format!("{n}@_a.test")).await;
        assert_eq!(reply, go);
        held.push(client);
    }
    let (mut other, reply) = begin(ALICE).await;
    assert_eq!(reply, busy);
    assert_eq!(other.rest().await, "");
    // Small messages do not wait for large ones.
    let mut small = connect(&server).await;
    assert_eq!(small.send(ALICE, &[BOB], &encrypted()).await, "250 2.0.0 Ok");
    // The permit is free once the message has its reply.
    let mut first = held.remove(0);
    first.write(".\r\n").await;
    assert!(first.reply().await.starts_with('5'));
    let (third, reply) = begin(ALICE).await;
    assert_eq!(reply, go);
    // A client that disconnects does not keep it.
    drop(third);
    let again = async || begin(ALICE).await.1 == go;
    while !again().await {}
}

/// However slowly one account sends its large messages, those of others pass.
#[tokio::test]
async fn large_messages_of_one_account_leave_room_for_others() {
    let (address, _delivered) = postfix("250 2.0.0 Ok").await;
    let mut server = server(policy(100), address);
    server.max_message_size = 10_000_000;
    let server = Arc::new(server);
    let large = format!("From: carol@_a.test\r\n\r\n{}", "0123456789\r\n".repeat(200_000));
    let mut slow = Vec::new();
    for n in 0..LARGE.at_once {
        let mut client = connect(&server).await;
        client.say("EHLO test").await;
        let from = if n % 2 == 0 { ALICE } else { "Alice@_A.test" };
        client.say(&format!("MAIL FROM:<{from}>")).await;
        client.say(&format!("RCPT TO:<{BOB}>")).await;
        client.say("DATA").await;
        client.write(&large).await;
        slow.push(client);
    }
    let mut other = connect(&server).await;
    let sent = other.send("carol@_a.test", &[BOB], large.as_bytes());
    let reply = tokio::time::timeout(Duration::from_secs(20), sent).await.unwrap();
    assert_eq!(reply, "523 Encryption Needed: Invalid Unencrypted Mail");
}
