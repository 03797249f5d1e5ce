//! Messages in `testdata/`, in folders by the expected decision.

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

/// A report as Postfix writes it.
const REPORT: &str = "From: MAILER-DAEMON@c.test (Mail Delivery System)\r\n\
    Auto-Submitted: auto-replied\r\n\
    MIME-Version: 1.0\r\n\
    Content-Type: multipart/report; report-type=delivery-status;\r\n\tboundary=\"x.1/c.test\"\r\n\
    \r\n\
    This is a MIME-encapsulated message.\r\n\
    \r\n\
    --x.1/c.test\r\n\
    Content-Description: Notification\r\n\
    Content-Type: text/plain; charset=us-ascii\r\n\
    \r\n\
    I'm sorry to have to inform you\r\n\
    \r\n\
    --x.1/c.test\r\n\
    Content-Description: Delivery report\r\n\
    Content-Type: message/delivery-status\r\n\
    \r\n\
    Reporting-MTA: dns; c.test\r\n\
    \r\n\
    --x.1/c.test\r\n\
    Content-Description: Undelivered Message\r\n\
    Content-Type: message/rfc822\r\n\
    \r\n\
    Content-Type: multipart/encrypted; boundary=y\r\n\
    \r\n\
    --y\r\n\
    \r\n\
    --y--\r\n\
    \r\n\
    --x.1/c.test--\r\n";

#[test]
fn reports_come_from_a_mailer_daemon() {
    let kind = |text: &str, mail_from: &str| incoming::examine(text.as_bytes(), mail_from).unwrap().kind;
    assert_eq!(kind(REPORT, ""), incoming::Kind::MailerDaemon);
    let named = REPORT.replace(
        "MAILER-DAEMON@c.test (Mail Delivery System)",
        "Mail Delivery <mailer-daemon@c.test>",
    );
    assert_eq!(kind(&named, ""), incoming::Kind::MailerDaemon);
    let short = REPORT.replace("message/rfc822", "text/rfc822-headers");
    assert_eq!(kind(&short, ""), incoming::Kind::MailerDaemon);
    assert_eq!(kind(REPORT, "mailer-daemon@c.test"), incoming::Kind::Cleartext);
    for (from, to) in [
        ("MAILER-DAEMON@c.test (Mail Delivery System)", "someone@c.test"),
        ("auto-replied", ""),
        ("Auto-Submitted: auto-replied\r\n", ""),
        ("multipart/report", "multipart/mixed"),
        (
            "report-type=delivery-status",
            "report-type=disposition-notification",
        ),
        ("report-type=delivery-status;", ""),
        ("message/delivery-status", "text/plain"),
        ("message/rfc822", "text/html"),
        (
            "MIME-encapsulated message.",
            "MIME-encapsulated message. See you at noon.",
        ),
        ("x.1/c.test--", "x.1/c.test--\r\nSee you at noon."),
        ("x.1/c.test--", "x.1/c.test"),
        ("\"x.1/c.test\"", "\"x.1/c.test;boundary=x.1/c.test\""),
        ("MIME-Version: 1.0", "MIME-Version: 1.0\r\nMIME-Version: 1.0"),
        (
            "Content-Type: text/plain",
            "Content-Type : text/html\r\nContent-Type: text/plain",
        ),
    ] {
        let text = REPORT.replace(from, to);
        assert_ne!(text, REPORT, "{from}");
        assert_eq!(kind(&text, ""), incoming::Kind::Cleartext, "{from} -> {to}");
    }
}

#[test]
fn what_is_signed_arrives_as_signed_or_is_refused() {
    let (_, message) = messages("passes").remove(0);
    let text = String::from_utf8(message).unwrap();
    let with = |field: &str| {
        let message = text.replacen("Subject:", &format!("{field}\r\nSubject:"), 1);
        outgoing::examine(message.as_bytes(), ALICE, &[]).map_err(|reply| reply.to_string())
    };
    let line = "x".repeat(990);
    assert_eq!(
        with(&format!("X-Long: {line}\r\n {line}")),
        Ok(outgoing::Kind::Encrypted)
    );
    for field in [format!("X-Long: {line}x"), format!("X-Long:\r\n {line}{line}")] {
        assert_eq!(
            with(&field).unwrap_err(),
            "550 5.6.0 Line longer than 998 bytes in message"
        );
    }
    assert_eq!(
        with("X-Name: M\u{fc}ller").unwrap_err(),
        "550 5.6.3 Characters beyond ASCII in message"
    );
    assert_eq!(
        with("X-Bell: \x07").unwrap_err(),
        "550 5.6.0 Control characters in message"
    );
}

#[test]
fn nobody_else_is_named_as_the_sender() {
    let (_, message) = messages("passes").remove(0);
    let text = String::from_utf8(message).unwrap();
    let with = |field: &str| {
        let message = text.replacen("Subject:", &format!("{field}\r\nSubject:"), 1);
        outgoing::examine(message.as_bytes(), ALICE, &[]).map_err(|reply| reply.to_string())
    };
    assert_eq!(
        with("Sender: Alice <alice@_a.test>"),
        Ok(outgoing::Kind::Encrypted)
    );
    for field in [
        "Sender: bob@_a.test",
        "Sender: ",
        "Resent-From: <bob@_a.test>",
        "Resent-Sender: bob@_a.test",
    ] {
        assert_eq!(
            with(field).unwrap_err(),
            "500 Invalid Sender: not the address of the account",
            "{field}"
        );
    }
}

#[test]
fn an_address_literal_is_only_as_good_as_its_origin() {
    let literal = "192.0.2.1".parse().unwrap();
    assert!(incoming::check_literal(literal, Some(literal), None).is_ok());
    assert!(incoming::check_literal(literal, Some("::ffff:192.0.2.1".parse().unwrap()), None).is_ok());
    assert!(incoming::check_literal(literal, Some("192.0.2.2".parse().unwrap()), None).is_err());
    assert!(incoming::check_literal(literal, None, None).is_err());
    assert!(incoming::check_literal(literal, Some(literal), Some(literal)).is_err());
    let other = "192.0.2.2".parse().unwrap();
    assert!(incoming::check_literal(literal, Some(literal), Some(other)).is_ok());
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
