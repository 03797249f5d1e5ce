//! Reads the envelope of a message from the header fields of a request.

use axum::http::{HeaderMap, HeaderValue};

use crate::reply::Reply;
use crate::smtp::{Command, Envelope, Path, parse_command};

/// The envelope sender; absent for the null sender.
const FROM: &str = "x-mail-from";
/// One recipient; the field is repeated for each.
const TO: &str = "x-mail-to";
/// Maximum length of an address, well above the 256 octets that RFC 5321 section 4.5.3.1.3 allows for a path.
const MAX_ADDRESS: usize = 512;

/// Reads the envelope. An error is the SMTP reply to an invalid one.
pub(super) fn parse(headers: &HeaderMap, max_recipients: usize) -> Result<Envelope, Reply> {
    let mut senders = headers.get_all(FROM).iter();
    let sender = match (senders.next(), senders.next()) {
        (None, _) => Path::default(),
        (Some(value), None) if value.is_empty() => Path::default(),
        (Some(value), None) => address(value).ok_or(Reply::BAD_SENDER)?,
        (Some(_), Some(_)) => return Err(Reply::BAD_SENDER),
    };
    let mut recipients = Vec::new();
    for value in headers.get_all(TO) {
        if recipients.len() == max_recipients {
            return Err(Reply::TOO_MANY_RECIPIENTS);
        }
        recipients.push(address(value).ok_or(Reply::BAD_RECIPIENT)?);
    }
    if recipients.is_empty() {
        return Err(Reply::NO_RECIPIENTS);
    }
    Ok(Envelope {
        sender,
        recipients,
        origin: None,
    })
}

/// Parses a value that consists of one address, by the grammar of SMTP commands.
fn address(value: &HeaderValue) -> Option<Path> {
    let text = value.to_str().ok().filter(|text| text.len() <= MAX_ADDRESS)?;
    match parse_command(format!("RCPT TO:<{text}>").as_bytes()) {
        Ok(Command::Rcpt(path)) if path.address == text && path.parameters.is_empty() => Some(path),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderName;
    use proptest::prelude::*;

    fn read(fields: &[(&'static str, &str)]) -> Result<(String, Vec<String>), Reply> {
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            headers.append(
                HeaderName::from_static(name),
                HeaderValue::from_bytes(value.as_bytes()).unwrap(),
            );
        }
        let envelope = parse(&headers, 3)?;
        let recipients = envelope.recipients.into_iter().map(|path| path.address);
        Ok((envelope.sender.address, recipients.collect()))
    }

    #[test]
    fn envelopes() {
        let is =
            |from: &str, to: &[&str]| Ok((from.to_owned(), to.iter().map(|&to| to.to_owned()).collect()));
        assert_eq!(
            read(&[(FROM, "a@x"), (TO, "b@y"), (TO, "c@y")]),
            is("a@x", &["b@y", "c@y"])
        );
        assert_eq!(read(&[(TO, "b@y")]), is("", &["b@y"]));
        assert_eq!(read(&[(FROM, ""), (TO, "b@y")]), is("", &["b@y"]));
        assert_eq!(
            read(&[(FROM, "a@[192.0.2.1]"), (TO, "\"b c\"@y")]),
            is("a@[192.0.2.1]", &["\"b c\"@y"])
        );
        assert_eq!(read(&[(FROM, "a@x")]), Err(Reply::NO_RECIPIENTS));
        assert_eq!(
            read(&[(FROM, "a@x"), (FROM, "b@x"), (TO, "b@y")]),
            Err(Reply::BAD_SENDER)
        );
        assert_eq!(
            read(&[(TO, "1@y"), (TO, "2@y"), (TO, "3@y"), (TO, "4@y")]),
            Err(Reply::TOO_MANY_RECIPIENTS)
        );
    }

    #[test]
    fn nothing_but_an_address_is_one() {
        let long = format!("{}@y", "x".repeat(MAX_ADDRESS));
        for bad in [
            "<b@y>",
            "b@y> SIZE=1",
            "b@y>",
            "b@y SIZE=1",
            "b@y, c@y",
            "b@y\tSIZE=1",
            " ",
            "\"b@y",
            "b\\",
            "\u{e9}@y",
            &long,
        ] {
            assert_eq!(read(&[(TO, bad)]), Err(Reply::BAD_RECIPIENT), "{bad:?}");
            assert_eq!(
                read(&[(FROM, bad), (TO, "b@y")]),
                Err(Reply::BAD_SENDER),
                "{bad:?}"
            );
        }
        assert_eq!(read(&[(TO, "")]), Err(Reply::BAD_RECIPIENT));
    }

    proptest! {
        /// Whatever the field contains, Postfix receives one command with one path.
        #[test]
        fn no_field_becomes_more_than_one_path(text in "(a|@|<|>|\"|\\\\| |\t|,|=|SIZE|é){0,20}") {
            let value = HeaderValue::from_bytes(text.as_bytes()).unwrap();
            if let Some(path) = address(&value) {
                prop_assert_eq!(&path.address, &text);
                prop_assert!(!text.contains(['<', '>', '\t']) && text.is_ascii());
            }
        }
    }
}
