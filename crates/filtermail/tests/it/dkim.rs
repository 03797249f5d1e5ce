//! The incoming filter with signed messages and a resolver under the test's control.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use chatmail_core::federation::Rules;
use chatmail_core::{Address, MailStore};
use filtermail::dkim::Verifier;
use filtermail::policy::Incoming;
use filtermail::smtp::Server;
use mail_auth::common::crypto::Ed25519Key;
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::{Canonicalization, DkimSigner};
use tokio::net::UdpSocket;

use crate::fixtures::messages;
use crate::relay::{LARGE, connect, postfix, server};

const ALICE: &str = "alice@_a.test";
const NXDOMAIN: u8 = 3;
const SERVFAIL: u8 = 2;

/// A key pair: the private half, and the record of the public one.
struct Key {
    pkcs8: Vec<u8>,
    record: String,
}

fn key() -> Key {
    use base64::Engine as _;
    let pkcs8 = Ed25519Key::generate_pkcs8().unwrap();
    let public = Ed25519Key::from_pkcs8_der(&pkcs8).unwrap().public_key();
    let public = base64::engine::general_purpose::STANDARD.encode(public);
    Key {
        pkcs8,
        record: format!("v=DKIM1; k=ed25519; p={public}"),
    }
}

fn signed(message: &[u8], domain: &str, key: &Key, body: Canonicalization) -> Vec<u8> {
    let signature = DkimSigner::from_key(Ed25519Key::from_pkcs8_der(&key.pkcs8).unwrap())
        .domain(domain)
        .selector("opendkim")
        .headers(["From", "To", "Subject", "Date"])
        .body_canonicalization(body)
        .sign(message)
        .unwrap();
    [signature.to_header().as_bytes(), message].concat()
}

/// A resolver that answers every query with these records or this code, and counts the queries.
async fn resolver(answer: Result<Vec<String>, u8>) -> (SocketAddr, Arc<AtomicUsize>) {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let address = socket.local_addr().unwrap();
    let asked = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&asked);
    tokio::spawn(async move {
        let mut query = [0; 1500];
        while let Ok((_, from)) = socket.recv_from(&mut query).await {
            count.fetch_add(1, Ordering::Relaxed);
            // Header, and the question up to the end of its name, type and class.
            let name = query[12..].iter().position(|b| *b == 0).unwrap();
            let mut reply = query[..12 + name + 5].to_vec();
            reply[2] = 0x81;
            reply[3] = 0x80 | answer.as_ref().err().copied().unwrap_or(0);
            reply[6..12].fill(0);
            for record in answer.iter().flatten() {
                reply[7] += 1;
                reply.extend_from_slice(&[0xc0, 12, 0, 16, 0, 1, 0, 0, 0, 60, 0, record.len() as u8 + 1]);
                reply.push(record.len() as u8);
                reply.extend_from_slice(record.as_bytes());
            }
            socket.send_to(&reply, from).await.unwrap();
        }
    });
    (address, asked)
}

struct Filter {
    server: Arc<Server<Incoming>>,
    delivered: tokio::sync::mpsc::UnboundedReceiver<crate::relay::Delivered>,
    /// Number of queries.
    asked: Arc<AtomicUsize>,
    /// Kept as long as the filter is.
    _store: tempfile::TempDir,
}

async fn filter(answer: Result<String, u8>) -> Filter {
    filter_with(answer.map(|record| vec![record])).await
}

async fn filter_with(answer: Result<Vec<String>, u8>) -> Filter {
    filter_under(answer, Rules::default()).await
}

async fn filter_under(answer: Result<Vec<String>, u8>, rules: Rules) -> Filter {
    let store = tempfile::tempdir().unwrap();
    let accounts = MailStore::new(store.path());
    for name in ["bob", "open"] {
        let address = Address::parse(&format!("{name}@_b.test")).unwrap();
        accounts.account(&address).create("x").unwrap();
    }
    std::fs::remove_file(store.path().join("open@_b.test/enforceE2EEincoming")).unwrap();
    let (resolver, asked) = resolver(answer).await;
    let verifier = Verifier::new(resolver, 100).unwrap();
    let (address, delivered) = postfix("250 2.0.0 Ok").await;
    Filter {
        server: Arc::new(server(
            Incoming::new(accounts, "_b.test".to_owned(), verifier, rules, LARGE),
            address,
        )),
        delivered,
        asked,
        _store: store,
    }
}

impl Filter {
    async fn send(&self, from: &str, to: &[&str], message: &[u8]) -> String {
        connect(&self.server).await.send(from, to, message).await
    }
}

fn encrypted() -> Vec<u8> {
    let (_, message) = messages("passes")
        .into_iter()
        .find(|(name, _)| name == "encrypted-to-anonymous-v6-keys")
        .unwrap();
    message
}

const INVALID: &str = "554 5.7.1 No valid DKIM signature found";

#[tokio::test]
async fn signed_by_the_domain_of_the_sender() {
    let key = key();
    let mut filter = filter(Ok(key.record.clone())).await;
    for body in [Canonicalization::Relaxed, Canonicalization::Simple] {
        for (name, message) in messages("arriving-only").into_iter().chain(messages("passes")) {
            let message = signed(&message, "_a.test", &key, body);
            assert_eq!(
                filter.send(ALICE, &["bob@_b.test"], &message).await,
                "250 2.0.0 Ok",
                "{name}"
            );
            assert_eq!(filter.delivered.recv().await.unwrap().data, message, "{name}");
        }
    }
}

#[tokio::test]
async fn unsigned_or_signed_in_vain() {
    let key = key();
    let mut filter = filter(Ok(key.record.clone())).await;
    let good = signed(&encrypted(), "_a.test", &key, Canonicalization::Relaxed);
    let text = String::from_utf8(good.clone()).unwrap();
    let to = ["bob@_b.test"];
    assert_eq!(
        filter.send(ALICE, &to, &encrypted()).await,
        format!("{INVALID} (No DKIM signature found)")
    );
    let foreign = signed(&encrypted(), "c.test", &key, Canonicalization::Relaxed);
    assert_eq!(
        filter.send(ALICE, &to, &foreign).await,
        format!("{INVALID} (No signature by the domain of the From header)")
    );
    let other = signed(&encrypted(), "_a.test", &self::key(), Canonicalization::Relaxed);
    let body = text.replace("Version: 1\r\n", "Version: 1\r\n\r\n");
    let subject = text.replace("Subject: [...]", "Subject: hello");
    let truncated = text.replacen("c=", "l=1; c=", 1);
    for message in [
        other,
        body.into_bytes(),
        subject.into_bytes(),
        truncated.into_bytes(),
    ] {
        let reply = filter.send(ALICE, &to, &message).await;
        assert!(reply.starts_with(&format!("{INVALID} (")), "{reply}");
    }
    assert!(filter.delivered.try_recv().is_err());
    assert_eq!(filter.send(ALICE, &to, &good).await, "250 2.0.0 Ok");
}

#[tokio::test]
async fn a_resolver_that_fails_is_no_reason_to_refuse_for_good() {
    let message = signed(&encrypted(), "_a.test", &key(), Canonicalization::Relaxed);
    let failing = filter(Err(SERVFAIL)).await;
    let reply = failing.send(ALICE, &["bob@_b.test"], &message).await;
    assert_eq!(reply, "451 4.7.5 DKIM key lookup failed, try again later");
    let absent = filter(Err(NXDOMAIN)).await;
    let reply = absent.send(ALICE, &["bob@_b.test"], &message).await;
    assert_eq!(reply, format!("{INVALID} (No key in the DNS)"));
}

#[tokio::test]
async fn cleartext_is_refused_before_its_signature_is_looked_at() {
    let mut filter = filter(Err(SERVFAIL)).await;
    let cleartext = b"From: alice@_a.test\r\n\r\nhello\r\n";
    let needed = "523 Encryption Needed: Invalid Unencrypted Mail";
    assert_eq!(filter.send(ALICE, &["bob@_b.test"], cleartext).await, needed);
    assert_eq!(
        filter
            .send(ALICE, &["open@_b.test", "bob@_b.test"], cleartext)
            .await,
        needed
    );
    assert_eq!(
        filter.send(ALICE, &["open@_b.test"], cleartext).await,
        format!("{INVALID} (No DKIM signature found)")
    );
    assert_eq!(
        filter.send(ALICE, &["open@_b.test"], b"hello\r\n\r\n").await,
        "500 Failed to parse message: malformed header"
    );
    assert!(filter.delivered.try_recv().is_err());
}

#[tokio::test]
async fn forwarded_mail_keeps_nobody_to_bounce_to() {
    let key = key();
    let mut filter = filter(Ok(key.record.clone())).await;
    let message = signed(&encrypted(), "_a.test", &key, Canonicalization::Simple);
    assert_eq!(
        filter.send("forwarder@c.test", &["bob@_b.test"], &message).await,
        "250 2.0.0 Ok"
    );
    assert_eq!(filter.delivered.recv().await.unwrap().commands[0], "MAIL FROM:<>");
}

#[tokio::test]
async fn an_address_literal_needs_its_origin() {
    let filter = filter(Err(NXDOMAIN)).await;
    let text = String::from_utf8(encrypted())
        .unwrap()
        .replace("_a.test", "[192.0.2.1]");
    let mut client = connect(&filter.server).await;
    let (from, to) = ("alice@[192.0.2.1]", ["bob@_b.test"]);
    assert_eq!(
        client.send(from, &to, text.as_bytes()).await,
        "500 Invalid FROM domain literal: 192.0.2.1 cannot be verified"
    );
    assert_eq!(client.say("XFORWARD ADDR=192.0.2.9").await, "250 2.0.0 Ok");
    assert_eq!(
        client.send(from, &to, text.as_bytes()).await,
        "500 Invalid FROM domain literal: 192.0.2.1 does not match origin IP 192.0.2.9"
    );
    assert_eq!(client.say("XFORWARD ADDR=192.0.2.1").await, "250 2.0.0 Ok");
    assert_eq!(client.send(from, &to, text.as_bytes()).await, "250 2.0.0 Ok");
}

#[tokio::test]
async fn any_of_three_keys_at_a_selector_will_do() {
    let key = key();
    let message = signed(&encrypted(), "_a.test", &key, Canonicalization::Relaxed);
    let to = ["bob@_b.test"];
    let other = || self::key().record;
    let noise = || "v=spf1 -all".to_owned();
    let found = filter_with(Ok(vec![noise(), other(), other(), key.record.clone()])).await;
    assert_eq!(found.send(ALICE, &to, &message).await, "250 2.0.0 Ok");
    let quoted = key.record.replacen("p=", "\"\t\"p=", 1);
    let quoted = filter_with(Ok(vec![format!("\"{quoted}\"")])).await;
    assert_eq!(quoted.send(ALICE, &to, &message).await, "250 2.0.0 Ok");
    let fourth = filter_with(Ok(vec![other(), other(), other(), key.record])).await;
    let reply = fourth.send(ALICE, &to, &message).await;
    assert!(reply.starts_with(&format!("{INVALID} (")), "{reply}");
}

#[tokio::test]
async fn keys_that_do_not_count_say_why() {
    let key = key();
    let message = signed(&encrypted(), "_a.test", &key, Canonicalization::Relaxed);
    for (tag, reason) in [
        ("h=sha1", "Key is not for SHA-256"),
        ("s=tlsrpt", "Key is not for email"),
        ("t=y", "Key is for testing only"),
    ] {
        let filter = filter(Ok(format!("{}; {tag}", key.record))).await;
        let reply = filter.send(ALICE, &["bob@_b.test"], &message).await;
        assert_eq!(reply, format!("{INVALID} ({reason})"));
    }
}

#[tokio::test]
async fn a_malformed_selector_is_refused_for_good_and_never_looked_up() {
    let text = String::from_utf8(signed(&encrypted(), "_a.test", &key(), Canonicalization::Simple)).unwrap();
    let filter = filter(Err(SERVFAIL)).await;
    for selector in ["a..b", ".", "a/b", &"x".repeat(64)] {
        let message = text.replacen("s=opendkim", &format!("s={selector}"), 1);
        let reply = filter.send(ALICE, &["bob@_b.test"], message.as_bytes()).await;
        assert_eq!(
            reply,
            format!("{INVALID} (Malformed selector or domain)"),
            "{selector}"
        );
    }
    assert_eq!(filter.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_key_is_looked_up_once_for_all_who_wait() {
    let key = key();
    let message = signed(&encrypted(), "_a.test", &key, Canonicalization::Relaxed);
    let filter = Arc::new(filter(Ok(key.record)).await);
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..20 {
        let (filter, message) = (Arc::clone(&filter), message.clone());
        senders.spawn(async move { filter.send(ALICE, &["bob@_b.test"], &message).await });
    }
    for reply in senders.join_all().await {
        assert_eq!(reply, "250 2.0.0 Ok");
    }
    assert_eq!(filter.asked.load(Ordering::Relaxed), 1);
}

#[tokio::test]
async fn headers_beyond_all_measure_are_refused() {
    let filter = filter(Err(NXDOMAIN)).await;
    let text = String::from_utf8(signed(&encrypted(), "_a.test", &key(), Canonicalization::Simple)).unwrap();
    let names = text.replacen("h=", &format!("h={}", "a:".repeat(200)), 1);
    let reply = |message: String| {
        let filter = &filter;
        async move { filter.send(ALICE, &["bob@_b.test"], message.as_bytes()).await }
    };
    assert_eq!(
        reply(names).await,
        "552 5.3.4 DKIM signature exceeds 16 KiB or 100 field names"
    );
    assert_eq!(
        reply("X: y\r\n".repeat(1001) + &text).await,
        "552 5.3.4 Message header has more than 1000 fields"
    );
    assert_eq!(
        reply("DKIM-Signature: v=1\r\n".repeat(20) + &text).await,
        "552 5.3.4 Message has more than 20 DKIM signatures"
    );
    assert_eq!(filter.asked.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn a_rule_excludes_author_and_envelope_before_keys_are_looked_up() {
    let key = key();
    let filter = filter_under(Ok(vec![key.record.clone()]), crate::session::blocking()).await;
    let to = ["bob@_a.test"];
    let reply = "554 5.7.1 This relay exchanges no mail with _b.test";
    let text = String::from_utf8(encrypted()).unwrap();
    let by_bob = text.replace(ALICE, "bob@_B.test");
    assert_ne!(by_bob, text);
    let signed_by_bob = signed(by_bob.as_bytes(), "_b.test", &key, Canonicalization::Relaxed);
    for sender in ["bob@_b.test", "carol@c.test", ""] {
        assert_eq!(filter.send(sender, &to, &signed_by_bob).await, reply, "{sender}");
    }
    assert_eq!(filter.asked.load(Ordering::Relaxed), 0);
    let by_carol = text.replace(ALICE, "carol@c.test");
    let signed_by_carol = signed(by_carol.as_bytes(), "c.test", &key, Canonicalization::Relaxed);
    assert_eq!(filter.send("bob@_b.test", &to, &signed_by_carol).await, reply);
    assert_eq!(
        filter.send("carol@c.test", &to, &signed_by_carol).await,
        "250 2.0.0 Ok"
    );
}
