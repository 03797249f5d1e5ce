//! Requests to `/mxdeliv`, and what the service sends to Postfix.

use std::net::SocketAddr;

use chatmail_core::Settings;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

use crate::relay::postfix;

/// Starts the service with a Postfix at this address.
async fn start(postfix: SocketAddr) -> SocketAddr {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../chatmail-core/testdata/settings.json"
    );
    let mut settings = Settings::load(path.as_ref()).unwrap();
    settings.mxdeliv.postfix = postfix.into();
    settings.messages.max_size = 100_000;
    let router = filtermail::mxdeliv::router(&settings.mxdeliv, &settings.messages);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// Sends a request with these fields and returns the status and text of the response.
async fn post(address: SocketAddr, fields: &str, body: &[u8]) -> (u16, String) {
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "POST /mxdeliv HTTP/1.1\r\nhost: x\r\nconnection: close\r\nx-real-ip: 192.0.2.1\r\n\
         content-length: {}\r\n{fields}\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The service may reject the request and close the connection before it has read the body.
    let _ = stream.write_all(body).await;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let (head, text) = answer.split_once("\r\n\r\n").unwrap();
    (head[9..12].parse().unwrap(), text.to_owned())
}

const ENVELOPE: &str = "X-MAIL-FROM: a@x\r\nX-MAIL-TO: b@y\r\nX-MAIL-TO: c@y\r\n";

#[tokio::test]
async fn postfix_gets_the_envelope_the_address_and_the_message() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok: queued as X").await;
    let service = start(address).await;
    let message = b".one\r\n..\r\n.\r\n\r\nMAIL FROM:<c@x>\r\n";
    let answer = post(service, ENVELOPE, message).await;
    assert_eq!(answer, (200, "250 2.0.0 Ok: queued as X".to_owned()));
    let got = delivered.recv().await.unwrap();
    assert_eq!(
        got.commands,
        [
            "PROXY TCP4 192.0.2.1 127.0.0.1 443 443",
            "MAIL FROM:<a@x>",
            "RCPT TO:<b@y>",
            "RCPT TO:<c@y>"
        ]
    );
    assert_eq!(got.data, b"..one\r\n...\r\n..\r\n\r\nMAIL FROM:<c@x>\r\n");
}

#[tokio::test]
async fn a_large_message_arrives_in_parts_as_it_was() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let service = start(address).await;
    let message = "\r\n.".repeat(33_000);
    let answer = post(service, "X-MAIL-TO: b@y\r\n", message.as_bytes()).await;
    assert_eq!(answer.0, 200);
    let got = delivered.recv().await.unwrap();
    assert_eq!(got.commands[1], "MAIL FROM:<>");
    assert_eq!(got.data, ("\r\n..".repeat(33_000) + "\r\n").into_bytes());
}

#[tokio::test]
async fn what_postfix_refuses_is_refused_with_its_words() {
    let (address, mut delivered) = postfix("554 5.7.1 No valid DKIM signature found (x)").await;
    let service = start(address).await;
    let answer = post(service, ENVELOPE, b"x\r\n").await;
    assert_eq!(
        answer,
        (400, "554 5.7.1 No valid DKIM signature found (x)".to_owned())
    );
    delivered.recv().await.unwrap();

    // All recipients get the message or none.
    let fields = "X-MAIL-TO: b@y\r\nX-MAIL-TO: refused@y\r\n";
    let answer = post(service, fields, &[b'x'; 90_000]).await;
    assert_eq!(answer, (400, "550 5.1.1 No such user".to_owned()));
    let answer = post(service, "X-MAIL-TO: b@y> NOTIFY=NEVER\r\n", b"x\r\n").await;
    assert_eq!(answer, (400, "501 5.1.3 Bad recipient address syntax".to_owned()));
    let answer = post(service, ENVELOPE, &[b'x'; 100_001]).await;
    assert_eq!(answer, (413, "552 Message exceeds maximum size".to_owned()));
    assert!(delivered.try_recv().is_err());
}

#[tokio::test]
async fn half_a_message_is_no_message() {
    let (address, mut delivered) = postfix("250 2.0.0 Ok").await;
    let service = start(address).await;
    let mut stream = TcpStream::connect(service).await.unwrap();
    let request = format!(
        "POST /mxdeliv HTTP/1.1\r\nhost: x\r\nx-real-ip: 2001:db8::1\r\n{ENVELOPE}content-length: 9\r\n\r\nabc"
    );
    stream.write_all(request.as_bytes()).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer).await;
    assert!(!answer.starts_with(b"HTTP/1.1 200"));

    // The service also cuts off a message without a declared length at the maximum size.
    let mut stream = TcpStream::connect(service).await.unwrap();
    let head = format!(
        "POST /mxdeliv HTTP/1.1\r\nhost: x\r\nx-real-ip: ::1\r\nconnection: close\r\n{ENVELOPE}transfer-encoding: chunked\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let chunk = format!("10000\r\n{}\r\n", "x".repeat(0x10000));
    for _ in 0..2 {
        stream.write_all(chunk.as_bytes()).await.unwrap();
    }
    let mut answer = vec![0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 413");
    assert!(delivered.try_recv().is_err());
}

#[tokio::test]
async fn without_postfix_the_client_shall_try_again() {
    let nobody = TcpListener::bind("127.0.0.1:0")
        .await
        .unwrap()
        .local_addr()
        .unwrap();
    let service = start(nobody).await;
    let answer = post(service, ENVELOPE, b"x\r\n").await;
    assert_eq!(
        answer,
        (503, "451 4.3.0 Mail server temporarily unavailable".to_owned())
    );
}
