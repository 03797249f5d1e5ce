//! `mailparse`, the parser of Delta Chat, reads accepted messages as the filter does. The lab checks this with Python.

use filtermail::check::incoming::{self, Kind};
use filtermail::check::outgoing;
use mailparse::{MailAddr, MailHeaderMap as _, ParsedMail};
use proptest::prelude::*;

use crate::fixtures::messages;
use crate::generator;

/// All addresses that Delta Chat finds in the `From` field.
fn senders(mail: &ParsedMail<'_>) -> Vec<String> {
    let mut found = Vec::new();
    for header in mail.headers.get_all_headers("From") {
        let Ok(addresses) = mailparse::addrparse_header(header) else {
            continue;
        };
        for address in addresses.iter() {
            match address {
                MailAddr::Single(one) => found.push(one.addr.clone()),
                MailAddr::Group(group) => found.extend(group.addrs.iter().map(|one| one.addr.clone())),
            }
        }
    }
    found
}

/// A person cannot read anything that the filter has not checked.
fn has_the_parts_of(mail: &ParsedMail<'_>, kind: Kind) {
    let types: Vec<&str> = mail
        .subparts
        .iter()
        .map(|part| part.ctype.mimetype.as_str())
        .collect();
    let bodies: Vec<String> = mail
        .subparts
        .iter()
        .map(|part| String::from_utf8(part.get_body_raw().unwrap()).unwrap())
        .collect();
    assert!(
        mail.subparts.iter().all(|part| part.subparts.is_empty()),
        "parts of parts"
    );
    let preamble = mail.get_body_raw().unwrap();
    let preamble = std::str::from_utf8(&preamble).unwrap().trim();
    assert!(preamble.is_empty() || preamble.starts_with("This is an OpenPGP/MIME encrypted message (RFC "));
    match (kind, types.as_slice(), bodies.as_slice()) {
        (Kind::Encrypted, ["application/pgp-encrypted", "application/octet-stream"], [version, data]) => {
            assert_eq!(mail.ctype.mimetype, "multipart/encrypted");
            assert_eq!(version.trim(), "Version: 1");
            assert!(data.starts_with("-----BEGIN PGP MESSAGE-----\r\n"), "{data}");
            assert!(data.trim().ends_with("-----END PGP MESSAGE-----"), "{data}");
        }
        (Kind::Encrypted, ["text/plain"], [step]) => {
            assert!(step.trim().to_lowercase().starts_with("secure-join: v"), "{step}");
        }
        found => panic!("{found:?}"),
    }
}

fn seeds() -> Vec<Vec<u8>> {
    let folders = ["passes", "arriving-only"];
    folders
        .into_iter()
        .flat_map(messages)
        .map(|(_, message)| message)
        .collect()
}

#[test]
fn enough_of_what_is_generated_passes() {
    use proptest::strategy::{Strategy as _, ValueTree as _};
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let (values, messages) = (generator::from_values(), generator::messages(seeds()));
    let (mut alike, mut encrypted) = (0, 0);
    for _ in 0..500 {
        let value = values.new_tree(&mut runner).unwrap().current();
        let message = [b"From:".as_slice(), &value, b"\r\n\r\n"].concat();
        alike += usize::from(incoming::examine(&message, "").is_ok());
        let message = messages.new_tree(&mut runner).unwrap().current();
        encrypted +=
            usize::from(incoming::examine(&message, "").is_ok_and(|found| found.kind == Kind::Encrypted));
    }
    assert!(
        alike > 50 && encrypted > 50,
        "{alike} and {encrypted} of 500 would say little"
    );
    assert!(
        alike < 450 && encrypted < 450,
        "{alike} and {encrypted} of 500 would say little"
    );
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn delta_chat_sees_the_sender_that_we_verify(value in generator::from_values()) {
        let message = [b"From:".as_slice(), &value, b"\r\nSubject: x\r\n\r\nhello\r\n"].concat();
        if let Ok(found) = incoming::examine(&message, "") {
            let mail = mailparse::parse_mail(&message).unwrap();
            prop_assert_eq!(senders(&mail), [found.from.as_str()], "{}", String::from_utf8_lossy(&message));
            prop_assert_eq!(found.from.rsplit_once('@').unwrap().1.to_ascii_lowercase(), found.domain);
            prop_assert!(outgoing::examine(&message, &found.from, &[]).is_ok());
        }
    }

    #[test]
    fn delta_chat_sees_the_parts_that_we_see(message in generator::messages(seeds())) {
        if let Ok(found) = incoming::examine(&message, "")
            && found.kind == Kind::Encrypted
        {
            let queued = generator::queued(&message);
            let mail = mailparse::parse_mail(&queued).unwrap();
            prop_assert_eq!(senders(&mail), [found.from]);
            has_the_parts_of(&mail, found.kind);
        }
    }
}
