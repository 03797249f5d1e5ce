//! Delivery to mailboxes of the relay, and what remains for Postfix.

use std::path::Path;
use std::sync::Arc;

use chatmail_core::federation::Rules;
use chatmail_core::{Endpoint, Settings};
use daemon::{CancellationToken, socketmap};
use filtermail::check::Direction;
use filtermail::policy::Outgoing;
use filtermail::rate::SendLimit;
use filtermail::smtp::{Mailboxes, Server, Target};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;

use crate::fixtures::messages;
use crate::relay::{Delivered, LARGE, TURNS, connect, postfix, server};

const SAMPLE: &str = include_str!("../../../chatmail-core/testdata/settings.json");

const ALICE: &str = "alice@_a.test";
const BOB: &str = "bob@_a.test";
const REMOTE: &str = "carol@_b.test";
const QUEUED: &str = "250 2.0.0 Ok: queued as X";
const DELIVERED: &str = "250 2.0.0 Ok: delivered";

/// A Dovecot that treats recipients as their names say, and collects the messages with the recipients that got them.
fn dovecot(path: &Path) -> mpsc::UnboundedReceiver<(Vec<String>, String)> {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(session(stream, sender.clone()));
        }
    });
    receiver
}

async fn session(stream: UnixStream, stored: mpsc::UnboundedSender<(Vec<String>, String)>) {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink\r\n").await.unwrap();
    let mut recipients: Vec<String> = Vec::new();
    let mut line = String::new();
    while stream.read_line(&mut line).await.is_ok_and(|read| read > 0) {
        let command = std::mem::take(&mut line);
        let reply = match command.get(..4).unwrap_or_default() {
            "LHLO" => "250-sink\r\n250 PIPELINING\r\n",
            "RCPT" if command.contains("unknown") => "550 5.1.1 User doesn't exist\r\n",
            "RCPT" => {
                recipients.push(command.trim_end().to_owned());
                "250 2.1.5 OK\r\n"
            }
            "DATA" => "354 OK\r\n",
            "RSET" | "MAIL" => "250 2.0.0 OK\r\n",
            _ => return,
        };
        stream.write_all(reply.as_bytes()).await.unwrap();
        if command != "DATA\r\n" {
            continue;
        }
        let mut data = String::new();
        while !data.ends_with("\r\n.\r\n") {
            if stream.read_line(&mut data).await.unwrap() == 0 {
                return;
            }
        }
        let mut got = Vec::new();
        let mut gone = false;
        for recipient in std::mem::take(&mut recipients) {
            let reply = match &recipient {
                r if r.contains("gone") => {
                    gone = true;
                    break;
                }
                r if r.contains("hanging") => return std::future::pending().await,
                r if r.contains("full") => "552 5.2.2 Quota exceeded (mailbox for user is full)\r\n",
                r => &format!("250 2.0.0 {} Saved\r\n", &r["RCPT TO:".len()..]),
            };
            stream.write_all(reply.as_bytes()).await.unwrap();
            if reply.starts_with('2') {
                got.push(recipient);
            }
        }
        stored.send((got, data)).unwrap();
        if gone {
            return;
        }
    }
}

/// Collects reports of deliveries.
fn reports(path: &Path) -> mpsc::UnboundedReceiver<String> {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let told = |table: &str, report: &str| {
                sender.send(format!("{table}: {report}")).unwrap();
                std::future::ready(socketmap::NOT_FOUND.to_owned())
            };
            socketmap::serve(stream, &CancellationToken::new(), told)
                .await
                .unwrap();
        }
    });
    receiver
}

struct Relay {
    folder: tempfile::TempDir,
    filter: Arc<Server<Outgoing>>,
    stored: mpsc::UnboundedReceiver<(Vec<String>, String)>,
    queued: mpsc::UnboundedReceiver<Delivered>,
}

impl Relay {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let stored = dovecot(&folder.path().join("lmtp"));
        Self::with(folder, stored).await
    }

    async fn with(folder: tempfile::TempDir, stored: mpsc::UnboundedReceiver<(Vec<String>, String)>) -> Self {
        let (address, queued) = postfix(QUEUED).await;
        let mut settings = Settings::parse(SAMPLE, Path::new("sample")).unwrap();
        settings.domain = "_a.test".to_owned();
        let direct = settings.filtermail.direct_delivery.as_mut().unwrap();
        direct.lmtp = Endpoint::Unix(folder.path().join("lmtp"));
        direct.reports_socket = folder.path().join("delivered");
        let limit = SendLimit::new(1.try_into().unwrap(), 100.try_into().unwrap());
        let mailboxes = Mailboxes::new(&settings, Direction::Outgoing);
        let target = Target::with_turns(address.into(), TURNS).with_mailboxes(mailboxes);
        let filter = Server {
            reinject: Some(Arc::new(target)),
            ..server(Outgoing::new(limit, Rules::default(), LARGE), address)
        };
        Self {
            folder,
            filter: Arc::new(filter),
            stored,
            queued,
        }
    }

    async fn send(&self, to: &[&str]) -> String {
        connect(&self.filter).await.send(ALICE, to, &message()).await
    }

    /// Recipients that Dovecot has stored the next message for.
    async fn stored(&mut self) -> Vec<String> {
        self.stored.recv().await.unwrap().0
    }

    /// Recipients of the next message that Postfix queues, which is the original.
    async fn queued(&mut self) -> Vec<String> {
        let Delivered { mut commands, data } = self.queued.recv().await.unwrap();
        assert_eq!(commands.remove(0), "MAIL FROM:<alice@_a.test>");
        assert_eq!(data, message());
        commands
    }

    fn nothing_else(&mut self) {
        assert!(self.stored.try_recv().is_err());
        assert!(self.queued.try_recv().is_err());
    }
}

/// An encrypted message with fields that only the relay needs.
fn message() -> Vec<u8> {
    let passing = messages("passes");
    let (_, encrypted) = passing
        .iter()
        .find(|(name, _)| name.contains("partial-lengths"))
        .unwrap();
    [b"Received: by client\r\nUser-Agent: x\r\n".as_slice(), encrypted].concat()
}

fn rcpt(address: &str) -> String {
    format!("RCPT TO:<{address}>")
}

#[tokio::test]
async fn users_of_the_relay_have_the_message_before_its_reply() {
    let mut relay = Relay::start().await;
    let to = ["bob@_a.test", "Carol+x@_A.test", "BOB@_a.test"];
    assert_eq!(relay.send(&to).await, DELIVERED);
    let (recipients, data) = relay.stored.try_recv().unwrap();
    assert_eq!(recipients, [rcpt(BOB), rcpt("carol+x@_a.test")]);
    assert!(
        !data.contains("Received:") && !data.contains("User-Agent:"),
        "{data}"
    );
    assert!(data.contains("\r\nSubject: [...]\r\n"), "{data}");
    let body = |text: &str| text.split_once("\r\n\r\n").unwrap().1.to_owned();
    let sent = String::from_utf8(message()).unwrap();
    assert_eq!(body(&data), body(&sent) + ".\r\n");
    relay.nothing_else();
}

#[tokio::test]
async fn postfix_gets_what_dovecot_does_not_store() {
    let mut relay = Relay::start().await;
    for (to, stored, queued) in [
        (vec![BOB, "full@_a.test"], Some(vec![BOB]), vec!["full@_a.test"]),
        (vec!["full@_a.test", BOB], Some(vec![BOB]), vec!["full@_a.test"]),
        (vec![BOB, "unknown@_a.test"], None, vec![BOB, "unknown@_a.test"]),
        (
            vec![BOB, "gone@_a.test", "zoe@_a.test"],
            Some(vec![BOB]),
            vec!["gone@_a.test", "zoe@_a.test"],
        ),
        (vec![BOB, REMOTE], Some(vec![BOB]), vec![REMOTE]),
        (vec!["\"bob\"@_a.test"], None, vec!["\"bob\"@_a.test"]),
        (vec!["+bob@_a.test"], None, vec!["+bob@_a.test"]),
    ] {
        assert_eq!(relay.send(&to).await, QUEUED, "{to:?}");
        if let Some(stored) = stored {
            let stored: Vec<String> = stored.into_iter().map(rcpt).collect();
            assert_eq!(relay.stored().await, stored, "{to:?}");
        }
        let queued: Vec<String> = queued.into_iter().map(rcpt).collect();
        assert_eq!(relay.queued().await, queued, "{to:?}");
        relay.nothing_else();
    }
    // The connection still works after each of them.
    assert_eq!(relay.send(&[BOB]).await, DELIVERED);
    assert_eq!(relay.stored().await, [rcpt(BOB)]);
}

#[tokio::test]
async fn postfix_gets_messages_for_many_recipients() {
    let mut relay = Relay::start().await;
    let many: Vec<String> = (0..101).map(|n| format!("u{n}@_a.test")).collect();
    let many: Vec<&str> = many.iter().map(String::as_str).collect();
    assert_eq!(relay.send(&many).await, QUEUED);
    assert_eq!(relay.queued().await.len(), 101);
    assert_eq!(relay.send(&many[1..]).await, DELIVERED);
    assert_eq!(relay.stored().await.len(), 100);
    relay.nothing_else();
}

#[tokio::test]
async fn without_dovecot_messages_wait_in_the_queue() {
    let (_, stored) = mpsc::unbounded_channel();
    let mut relay = Relay::with(tempfile::tempdir().unwrap(), stored).await;
    assert_eq!(relay.send(&[BOB]).await, QUEUED);
    assert_eq!(relay.queued().await, [rcpt(BOB)]);
}

#[tokio::test]
async fn a_message_that_postfix_refuses_reaches_nobody() {
    let mut relay = Relay::start().await;
    let refused = relay.send(&[BOB, "refused@_b.test"]).await;
    assert_eq!(refused, "550 5.1.1 No such user");
    relay.nothing_else();
}

#[tokio::test]
async fn deliveries_to_others_are_reported() {
    let mut relay = Relay::start().await;
    let mut reports = reports(&relay.folder.path().join("delivered"));
    let to = [
        "Bob+x@_a.test",
        "Alice@_a.test",
        "alice+y@_a.test",
        "full@_a.test",
    ];
    assert_eq!(relay.send(&to).await, QUEUED);
    assert_eq!(relay.queued().await, [rcpt("full@_a.test")]);
    assert_eq!(
        reports.recv().await.unwrap(),
        "delivered: 2.0.0 250 2.0.0 <bob+x@_a.test> Saved"
    );
    assert!(reports.try_recv().is_err());
}

#[tokio::test]
async fn a_mailbox_that_hangs_delays_nobody_else() {
    let mut relay = Relay::start().await;
    let mut hanging = tokio::task::JoinSet::new();
    for _ in 0..2 * TURNS {
        let mut client = connect(&relay.filter).await;
        hanging.spawn(async move { client.send(ALICE, &["hanging@_a.test"], &message()).await });
    }
    assert_eq!(relay.send(&[BOB]).await, DELIVERED);
    assert_eq!(relay.send(&[REMOTE]).await, QUEUED);
    assert_eq!(relay.stored().await, [rcpt(BOB)]);
    assert!(hanging.try_join_next().is_none());
}
