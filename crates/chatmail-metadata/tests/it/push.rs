//! From a message to the notification server.

use std::fs;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use chatmail_metadata::push::http::NotificationServer;
use chatmail_metadata::push::{Post as _, Reply};
use tokio::net::TcpListener;

use crate::process::{Relay, USER};
use crate::server::Server;

#[tokio::test]
async fn every_answer_of_the_server() {
    let server = Server::start().await;
    let relay = Relay::new(&server.url);
    let service = relay.start(server.authority()).await;
    let mut dovecot = service.connect().await;
    let tokens = ["fine-1", "gone-1", "busy-1", "error-1", "reset-1"];
    for token in tokens {
        dovecot.add_token(token).await;
    }
    dovecot.message().await;
    assert!(relay.pending().len() <= tokens.len());
    server
        .until(|seen| {
            ["busy-1", "error-1", "reset-1"]
                .iter()
                .all(|token| seen.count(token) >= 2)
        })
        .await;
    relay.until_nothing_is_pending().await;
    let seen = server.seen();
    // The connection that the server drops may carry both requests, which are then repeated.
    let (fine, gone) = (seen.count("fine-1"), seen.count("gone-1"));
    assert!((1..=2).contains(&fine), "{fine}");
    assert!((1..=2).contains(&gone), "{gone}");
    assert_eq!(seen.other_than_http2, 0);
    let file = fs::read_to_string(
        relay
            .settings
            .mailboxes
            .directory
            .join(USER)
            .join("metadata.json"),
    )
    .unwrap();
    assert!(!file.contains("gone-1"), "{file}");
    assert!(file.contains("reset-1"), "{file}");

    // The open connection carries later requests.
    dovecot.message().await;
    server.until(|seen| seen.count("fine-1") == fine + 1).await;
    assert_eq!(server.seen().connections, seen.connections);

    let (success, log) = service.terminate().await;
    assert!(success);
    assert!(log.contains("notification request failed"), "{log}");
    for token in tokens {
        assert!(!log.contains(token), "{log}");
    }
}

#[tokio::test]
async fn many_notifications_share_a_connection() {
    let server = Server::start().await;
    let relay = Relay::new(&server.url);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    fs::create_dir(&relay.settings.push.queue_dir).unwrap();
    for number in 0..500 {
        fs::write(
            relay.settings.push.queue_dir.join(format!("{number:032x}")),
            format!("account{number:03}@chat.example.org\n{now}\nfine-{number}"),
        )
        .unwrap();
    }
    let service = relay.start(server.authority()).await;
    server.until(|seen| seen.tokens.len() == 500).await;
    relay.until_nothing_is_pending().await;
    assert_eq!(server.seen().connections, 1);
    assert!(service.terminate().await.0);
}

#[tokio::test]
async fn a_killed_service_tells_the_devices_after_its_restart() {
    let server = Server::start().await;
    let relay = Relay::new(&server.url);
    let service = relay.start(server.authority()).await;
    let mut dovecot = service.connect().await;
    dovecot.add_token("hang-1").await;
    dovecot.message().await;
    server.until(|seen| seen.count("hang-1") == 1).await;
    // One request hangs, and a message has just been acknowledged.
    dovecot.add_token("fine-2").await;
    dovecot.message().await;
    service.kill().await;
    let content = fs::read_to_string(&relay.pending()[0]).unwrap();
    assert!(content.starts_with(&format!("{USER}\n")), "{content}");

    server.heal();
    let service = relay.start(server.authority()).await;
    server
        .until(|seen| seen.count("hang-1") >= 2 && seen.count("fine-2") >= 1)
        .await;
    relay.until_nothing_is_pending().await;
    assert!(service.terminate().await.0);
}

#[tokio::test]
async fn what_hangs_holds_up_neither_others_nor_the_end() {
    let server = Server::start().await;
    let relay = Relay::new(&server.url);
    let service = relay.start(server.authority()).await;
    let mut dovecot = service.connect().await;
    for token in ["hang-1", "hang-2", "hang-3", "fine-1"] {
        dovecot.add_token(token).await;
    }
    dovecot.message().await;
    server
        .until(|seen| seen.count("fine-1") == 1 && seen.tokens.len() == 4)
        .await;
    drop(dovecot);
    let begin = Instant::now();
    assert!(service.terminate().await.0);
    assert!(begin.elapsed() < Duration::from_secs(10));
    assert_eq!(relay.pending().len(), 3);
}

#[tokio::test]
async fn a_server_that_nobody_vouches_for_gets_no_token() {
    let server = Server::start().await;
    let relay = Relay::new(&server.url);
    let stranger = Server::start().await;
    let service = relay.start(stranger.authority()).await;
    let mut dovecot = service.connect().await;
    dovecot.add_token("fine-1").await;
    dovecot.message().await;
    drop(dovecot);
    // The attempt ends with the handshake.
    let mut service = Some(service);
    while server.seen().connections == 0 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let (_, log) = service.take().unwrap().terminate().await;
    assert!(log.contains("notification request failed"), "{log}");
    assert_eq!(server.seen().tokens.len(), 0);
    assert_eq!(relay.pending().len(), 1);
}

#[tokio::test]
async fn a_request_ends_when_its_time_is_up() {
    // Accepts connections and never responds.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/notify", listener.local_addr().unwrap());
    let client = NotificationServer::new(url.parse().unwrap(), Duration::from_millis(200)).unwrap();
    let Reply::Failed { after: None, reason } = client.post("secret-token").await else {
        panic!("it cannot have worked");
    };
    assert!(reason.contains("timed out"), "{reason}");
    assert!(!reason.contains("secret-token"), "{reason}");
}
