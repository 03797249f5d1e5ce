//! Requests of Dovecot for clients.

use std::fs;
use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use chatmail_core::turn;
use dovecot_dict::Operation;

use crate::process::{Relay, USER};

const INBOX: &str = "43f5f508a7ea0366dff30200c15250e3";
const SERVER: &str = "vendor/vendor.dovecot/pvt/server/vendor/deltachat";

#[tokio::test]
async fn what_the_relay_announces() {
    let relay = Relay::new("https://localhost:1/notify");
    let service = relay.start(Path::new("/dev/null")).await;
    let mut dovecot = service.connect().await;
    let mut transcript = String::new();
    for entry in [
        "irohrelay",
        "maxsmtprecipients",
        "maxmessagesize",
        "appversions",
        "nothing",
    ] {
        let reply = dovecot.lookup(&format!("shared/{INBOX}/{SERVER}/{entry}")).await;
        transcript.push_str(&format!("{entry}: {reply}\n"));
    }
    insta::assert_snapshot!(transcript, @r"
    irohrelay: Ohttps://chat.example.org
    maxsmtprecipients: O1000
    maxmessagesize: O52428800
    appversions: N
    nothing: N
    ");

    // The secret is not the one whose credentials every client of every other relay can make.
    let reply = dovecot.lookup(&format!("shared/{INBOX}/{SERVER}/turn")).await;
    let expires: u64 = reply.split(':').nth(2).unwrap().parse().unwrap();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs();
    // An account keeps its expiry for four fifths of the lifetime.
    assert!((now + 432_000 / 5 - 60..now + 432_000).contains(&expires));
    let secret = b"not the constant that everybody knows";
    let expected = turn::credentials("chat.example.org", 3478, secret, expires).unwrap();
    assert_eq!(reply, format!("O{expected}"));

    // A new secret counts from the next lookup on.
    fs::write(relay.dir.path().join("turn-secret"), "another").unwrap();
    let reply = dovecot.lookup(&format!("shared/{INBOX}/{SERVER}/turn")).await;
    assert!(!reply.contains(expected.rsplit(':').next().unwrap()));
}

#[tokio::test]
async fn device_tokens_are_kept_in_the_account() {
    let relay = Relay::new("https://localhost:1/notify");
    let service = relay.start(Path::new("/dev/null")).await;
    let mut dovecot = service.connect().await;
    let key = format!("priv/{INBOX}/devicetoken");
    assert_eq!(dovecot.lookup(&key).await, "N");
    dovecot.add_token("openpgp:AAAA").await;
    dovecot.add_token("openpgp:BBBB").await;
    assert_eq!(dovecot.lookup(&key).await, "Oopenpgp:AAAA openpgp:BBBB");
    for refused in ["", "two tokens", "line\nfeed", &"x".repeat(4097)] {
        let reply = dovecot.set("devicetoken", refused).await;
        assert_eq!(reply, "F1\tnot a device token");
    }

    // They survive the process.
    service.kill().await;
    let service = relay.start(Path::new("/dev/null")).await;
    let mut dovecot = service.connect().await;
    assert_eq!(dovecot.lookup(&key).await, "Oopenpgp:AAAA openpgp:BBBB");
    let folder = relay.settings.mailboxes.directory.join(USER);
    let files: Vec<_> = fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    assert_eq!(files, ["metadata.json"]);

    // SETMETADATA with NIL.
    assert_eq!(dovecot.change(Operation::Unset { key: key.clone() }).await, "O1");
    assert_eq!(dovecot.lookup(&key).await, "N");
}

/// When Dovecot 2.4.1 deletes a mailbox, it lists the entries, and unsets them and the entries that it knows.
#[tokio::test]
async fn entries_of_clients_are_kept_and_go_with_their_mailbox() {
    let relay = Relay::new("https://localhost:1/notify");
    let service = relay.start(Path::new("/dev/null")).await;
    let mut dovecot = service.connect().await;
    dovecot.add_token("openpgp:AAAA").await;
    let comment = format!("priv/{INBOX}/comment");
    let unset = |key: String| Operation::Unset { key };
    for absent in [
        comment.clone(),
        format!("shared/{INBOX}/comment"),
        format!("shared/{INBOX}/{SERVER}/nothing"),
    ] {
        let reply = dovecot.change(unset(absent)).await;
        assert!(!reply.starts_with('F'), "{reply}");
    }
    assert_eq!(dovecot.set("comment", "mine").await, "O1");
    assert_eq!(dovecot.lookup(&comment).await, "Omine");
    // Clients cannot set what the relay announces.
    let announced = format!("shared/{INBOX}/{SERVER}/irohrelay");
    let reply = dovecot
        .change(Operation::Set {
            key: announced.clone(),
            value: b"https://attacker.example".to_vec(),
        })
        .await;
    assert_eq!(reply, "N1");
    assert_eq!(dovecot.lookup(&announced).await, "Ohttps://chat.example.org");

    assert_eq!(dovecot.change(unset(comment.clone())).await, "O1");
    assert_eq!(dovecot.lookup(&comment).await, "N");
    let tokens = format!("priv/{INBOX}/devicetoken");
    assert_eq!(dovecot.lookup(&tokens).await, "Oopenpgp:AAAA");
}

#[tokio::test]
async fn what_breaks_the_protocol_is_cut_off_and_logged_without_content() {
    let relay = Relay::new("https://localhost:1/notify");
    let service = relay.start(Path::new("/dev/null")).await;
    let mut dovecot = service.connect().await;
    // Dovecot never sends a line of this length.
    let mut other = service.connect().await;
    let lookup = dovecot_dict::codec::Command::Lookup {
        key: "shared/secret-".repeat(6000),
        user: USER.to_owned(),
    };
    dovecot.send(&[lookup]).await;
    assert_eq!(dovecot.reply().await, None);
    assert_eq!(other.lookup("shared/x/y").await, "N", "others are served on");
    drop(other);
    let (success, log) = service.terminate().await;
    assert!(success);
    assert!(log.contains("line longer than 65536 bytes"), "{log}");
    assert!(!log.contains("secret"), "{log}");
    assert!(!log.contains(USER), "{log}");
}
