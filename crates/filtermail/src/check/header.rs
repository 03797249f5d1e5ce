//! The header that recipients get. For messages in its queue, Postfix does the same (`header_checks`,
//! `lmtp_header_checks`, `message_drop_headers`, `always_add_missing_headers`).

use chatmail_core::settings::DirectDelivery;

use super::Direction;
use super::mime::Entity;

/// Fields that Postfix adds to a submitted message without them.
const REQUIRED: [&str; 3] = ["From", "Date", "Message-ID"];

/// Which fields are dropped or replaced.
#[derive(Debug)]
pub struct Cleanup {
    dropped: Vec<String>,
    /// The subject of submitted messages.
    subject: Option<String>,
    required: &'static [&'static str],
}

impl Cleanup {
    /// The cleanup of messages in this direction.
    pub fn new(settings: &DirectDelivery, direction: Direction) -> Self {
        let mut dropped = settings.dropped_fields.clone();
        let submitted = direction == Direction::Outgoing;
        if submitted {
            dropped.extend_from_slice(&settings.dropped_submitted_fields);
        }
        Self {
            dropped,
            subject: submitted.then(|| settings.submitted_subject.clone()),
            required: if submitted { &REQUIRED } else { &[] },
        }
    }

    /// The header that recipients get, and the unchanged body; none if a required field is missing, or if a line of the
    /// header is not a field.
    pub fn apply<'a>(&self, message: &'a [u8]) -> Option<(Vec<u8>, &'a [u8])> {
        let entity = Entity::message(message).ok()?;
        if self.required.iter().any(|name| entity.all(name).next().is_none()) {
            return None;
        }
        let mut head = Vec::with_capacity(entity.head.len());
        for (name, value) in entity.fields().flatten() {
            let name = name.trim_ascii_end();
            if is_one_of(name, &self.dropped) {
                continue;
            }
            head.extend_from_slice(name);
            head.push(b':');
            match &self.subject {
                Some(subject) if name.eq_ignore_ascii_case(b"Subject") => {
                    head.push(b' ');
                    head.extend_from_slice(subject.as_bytes());
                    head.extend_from_slice(b"\r\n");
                }
                _ => head.extend_from_slice(value),
            }
        }
        head.extend_from_slice(b"\r\n");
        Some((head, entity.body))
    }
}

fn is_one_of(name: &[u8], names: &[String]) -> bool {
    names.iter().any(|one| name.eq_ignore_ascii_case(one.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> DirectDelivery {
        let names = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
        DirectDelivery {
            lmtp: chatmail_core::Endpoint::Unix("/lmtp".into()),
            reports_socket: "/reports".into(),
            max_connections: 1,
            dropped_fields: names(&["Received", "Bcc"]),
            dropped_submitted_fields: names(&["User-Agent"]),
            submitted_subject: "[...]".to_owned(),
        }
    }

    fn cleaned(direction: Direction, message: &str) -> Option<String> {
        let (head, body) = Cleanup::new(&settings(), direction).apply(message.as_bytes())?;
        Some(String::from_utf8([head.as_slice(), body].concat()).unwrap())
    }

    const MESSAGE: &str = "Received: by a;\r\n\tnow\r\nFrom: a@c.test\r\nsubject: x\r\n y\r\nBCC: b@c.test\r\n\
                           Date: now\r\nuser-agent: z\r\nMessage-ID: <m>\r\nX-Bcc :  c\r\n\r\nReceived: body\r\n";

    #[test]
    fn fields_about_the_sender_go() {
        assert_eq!(
            cleaned(Direction::Outgoing, MESSAGE).unwrap(),
            "From: a@c.test\r\nsubject: [...]\r\nDate: now\r\nMessage-ID: <m>\r\nX-Bcc:  c\r\n\r\nReceived: body\r\n"
        );
        assert_eq!(
            cleaned(Direction::Incoming, MESSAGE).unwrap(),
            "From: a@c.test\r\nsubject: x\r\n y\r\nDate: now\r\nuser-agent: z\r\nMessage-ID: <m>\r\nX-Bcc:  c\r\n\r\n\
             Received: body\r\n"
        );
    }

    #[test]
    fn what_postfix_would_add_or_repair_is_left_to_it() {
        for field in ["From: a@c.test\r\n", "Date: now\r\n", "Message-ID: <m>\r\n"] {
            let message = MESSAGE.replace(field, "");
            assert_eq!(cleaned(Direction::Outgoing, &message), None, "{field}");
            assert!(cleaned(Direction::Incoming, &message).is_some());
        }
        assert_eq!(cleaned(Direction::Incoming, "no field\r\n\r\nbody\r\n"), None);
    }

    #[test]
    fn a_message_without_a_body_keeps_its_form() {
        assert_eq!(
            cleaned(Direction::Incoming, "From: a@c.test\r\n").unwrap(),
            "From: a@c.test\r\n\r\n"
        );
    }
}
