//! Messages in `testdata/`, sorted into folders by what becomes of them.

use std::path::Path;

use filtermail::check::{incoming, outgoing};
use proptest::prelude::*;

const ALICE: &str = "alice@_a.test";

/// Messages of one folder with their names.
pub(crate) fn messages(folder: &str) -> Vec<(String, Vec<u8>)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("testdata")
        .join(folder);
    let found: Vec<_> = std::fs::read_dir(dir)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .map(|path| {
            (
                path.file_stem().unwrap().to_string_lossy().into_owned(),
                std::fs::read(path).unwrap(),
            )
        })
        .collect();
    assert!(!found.is_empty());
    found
}

fn leaves(message: &[u8]) -> bool {
    outgoing::examine(message, ALICE, &["bob@_b.test".to_owned()]) == Ok(outgoing::Kind::Encrypted)
}

fn arrives(message: &[u8]) -> bool {
    incoming::examine(message, ALICE).is_ok_and(|found| found.kind == incoming::Kind::Encrypted)
}

#[test]
fn every_message_passes_where_its_folder_says() {
    for (folder, out, inward) in [
        ("passes", true, true),
        ("arriving-only", false, true),
        ("never", false, false),
    ] {
        for (name, message) in messages(folder) {
            assert_eq!(
                (leaves(&message), arrives(&message)),
                (out, inward),
                "{folder}/{name}"
            );
        }
    }
}

#[test]
fn the_sender_in_the_message_is_the_one_in_the_envelope() {
    let (_, message) = messages("passes").remove(0);
    let reply = |from: &str| {
        let text = String::from_utf8(message.clone())
            .unwrap()
            .replace("<alice@_a.test>", from);
        outgoing::examine(text.as_bytes(), ALICE, &[])
            .unwrap_err()
            .to_string()
    };
    assert_eq!(
        reply("<bob@_a.test>"),
        "500 Invalid FROM <bob@_a.test> for <alice@_a.test>"
    );
    assert!(reply("<alice@_a.test>, <bob@_a.test>").starts_with("500 Invalid FROM header: "));
    assert!(reply("<alice@_a.test>\r\nFrom: <bob@_a.test>").starts_with("500 Invalid FROM header: "));
    let other = incoming::examine(&message, "forwarder@c.test").unwrap();
    assert!(other.reset_sender);
    assert!(!incoming::examine(&message, "ALICE@_A.test").unwrap().reset_sender);
}

#[test]
fn a_setup_message_goes_only_to_oneself() {
    let text = b"From: alice@_a.test\r\nSubject: Autocrypt Setup Message\r\nContent-Type: multipart/mixed; boundary=x\r\n\r\n--x\r\n\r\n--x--\r\n";
    let kind = |to: &[&str]| {
        let to: Vec<String> = to.iter().map(|to| (*to).to_owned()).collect();
        outgoing::examine(text, ALICE, &to).unwrap()
    };
    assert_eq!(kind(&[ALICE]), outgoing::Kind::SetupMessage);
    assert_eq!(kind(&["bob@_a.test"]), outgoing::Kind::Cleartext);
    assert_eq!(kind(&[ALICE, "bob@_a.test"]), outgoing::Kind::Cleartext);
}

#[test]
fn reports_come_from_a_mailer_daemon() {
    let kind = |from: &str, auto: &str, media: &str| {
        let text = format!("From: {from}\r\n{auto}Content-Type: {media}; boundary=x\r\n\r\n--x--\r\n");
        incoming::examine(text.as_bytes(), "").unwrap().kind
    };
    let (auto, report) = ("Auto-Submitted: auto-replied\r\n", "multipart/report");
    let daemon = "MAILER-DAEMON@c.test (Mail Delivery System)";
    assert_eq!(kind(daemon, auto, report), incoming::Kind::MailerDaemon);
    assert_eq!(kind("someone@c.test", auto, report), incoming::Kind::Cleartext);
    assert_eq!(
        kind(daemon, "Auto-Submitted: \r\n", report),
        incoming::Kind::Cleartext
    );
    assert_eq!(kind(daemon, "", report), incoming::Kind::Cleartext);
    assert_eq!(kind(daemon, auto, "multipart/mixed"), incoming::Kind::Cleartext);
}

#[test]
fn an_address_literal_is_only_as_good_as_its_origin() {
    let literal = "192.0.2.1".parse().unwrap();
    assert!(incoming::check_literal(literal, Some(literal)).is_ok());
    assert!(incoming::check_literal(literal, Some("::ffff:192.0.2.1".parse().unwrap())).is_ok());
    assert!(incoming::check_literal(literal, Some("192.0.2.2".parse().unwrap())).is_err());
    assert!(incoming::check_literal(literal, None).is_err());
}

proptest! {
    #[test]
    fn a_line_of_text_in_an_encrypted_body_never_leaves(which in any::<prop::sample::Index>(), line in any::<prop::sample::Index>()) {
        let messages = messages("passes");
        let (name, message) = which.get(&messages);
        let text = String::from_utf8(message.clone()).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        let mut lines: Vec<&str> = body.split("\r\n").collect();
        let at = line.index(lines.len() + 1);
        lines.insert(at, "this is, in the clear, a secret");
        let changed = format!("{head}\r\n\r\n{}", lines.join("\r\n"));
        prop_assert!(!leaves(changed.as_bytes()), "{} line {}", name, at);
    }

    #[test]
    fn changed_bytes_never_panic(which in any::<prop::sample::Index>(), changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..20)) {
        let messages = messages("passes");
        let mut message = which.get(&messages).1.clone();
        for (at, byte) in changes {
            let at = at.index(message.len());
            message[at] = byte;
        }
        leaves(&message);
        arrives(&message);
    }
}
