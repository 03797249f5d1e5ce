//! Interpretation of responses to `POST /mxdeliv`.

use crate::reply::Reply;

/// Result of a delivery over HTTPS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The other relay has accepted the message.
    Delivered,
    /// The other relay has rejected the message permanently.
    Refused(Reply),
    /// The other relay has rejected the message temporarily.
    Deferred(Reply),
    /// No connection, or a timeout.
    Failed,
    /// An error of a web server that can be temporary, or due to this message: too many recipients, too large.
    Unavailable,
    /// The host does not accept mail over HTTPS.
    NotOffered,
}

impl Answer {
    /// Interprets the status and the text. Web servers send any response for unknown paths, so only an SMTP reply
    /// counts.
    pub(super) fn of(status: u16, text: &str) -> Self {
        let line = text.lines().next().unwrap_or_default();
        match (status, class(line)) {
            (200, Some(b'2')) => Self::Delivered,
            (400, Some(b'5')) => Self::Refused(Reply::relayed(line)),
            // Our relays, too, reply 503 while their mail server is down.
            (400 | 408 | 429 | 500..=599, Some(b'4')) => Self::Deferred(Reply::relayed(line)),
            // What is too large for a web server can be small enough for the mail server behind it.
            (400 | 408 | 413 | 414 | 429 | 431 | 500..=599, _) => Self::Unavailable,
            _ => Self::NotOffered,
        }
    }

    /// Whether the result is final, so that no other host has to be tried.
    pub(super) fn is_final(&self) -> bool {
        matches!(self, Self::Delivered | Self::Refused(_))
    }

    /// Returns the reply to Postfix, which continues with SMTP after a temporary one; none if the other relay has not
    /// replied.
    pub(super) fn reply(&self) -> Option<Reply> {
        match self {
            Self::Delivered => Some(Reply::OK_HTTPS),
            Self::Refused(reply) | Self::Deferred(reply) => Some(reply.clone()),
            Self::Failed | Self::Unavailable | Self::NotOffered => None,
        }
    }
}

/// Returns the first digit of a reply's code.
fn class(line: &str) -> Option<u8> {
    let (code, rest) = line.as_bytes().split_at_checked(3)?;
    let separated = matches!(rest.first(), None | Some(b' ' | b'-'));
    (separated && code.iter().all(u8::is_ascii_digit)).then(|| code.first().copied())?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_replies_of_relays_count() {
        assert_eq!(Answer::of(200, "250 OK"), Answer::Delivered);
        assert_eq!(Answer::of(200, "250 2.0.0 Ok: queued as X\n"), Answer::Delivered);
        let policy = "523 Encryption Needed: Invalid Unencrypted Mail";
        assert_eq!(Answer::of(400, policy), Answer::Refused(Reply::ENCRYPTION_NEEDED));
        let deferred = Reply::relayed("451 4.7.5 later");
        assert_eq!(Answer::of(400, "451 4.7.5 later"), Answer::Deferred(deferred));
        for status in [408, 429, 500, 502, 503, 504] {
            let text = "451 4.3.0 Mail server temporarily unavailable";
            assert_eq!(
                Answer::of(status, text),
                Answer::Deferred(Reply::relayed(text)),
                "{status}"
            );
        }
        for status in [400, 408, 413, 414, 429, 431, 500, 502, 503, 504] {
            for text in ["", "<html>Bad Request</html>", "250 OK"] {
                assert_eq!(Answer::of(status, text), Answer::Unavailable, "{status} {text}");
            }
        }
        for status in [408, 413, 429, 500, 502, 503, 504] {
            assert_eq!(Answer::of(status, "552 x"), Answer::Unavailable, "{status}");
        }
        // A server that returns a page for every path, and error pages.
        for (status, text) in [
            (200, "<html>Welcome!</html>"),
            (200, ""),
            (200, "2500 visitors"),
            (200, "550 no"),
            (201, "250 OK"),
            (301, ""),
            (403, "550 no"),
            (404, "Not Found"),
            (405, ""),
        ] {
            assert_eq!(Answer::of(status, text), Answer::NotOffered, "{status} {text}");
        }
    }

    #[test]
    fn only_answers_of_relays_are_replies() {
        let replies = |answer: Answer, reply: &str| answer.reply().is_some_and(|one| one.as_str() == reply);
        assert!(replies(Answer::Delivered, "250 OK (HTTPS)"));
        assert!(replies(Answer::of(400, "452 4.2.2 full"), "452 4.2.2 full"));
        assert!(replies(Answer::of(400, "554 5.7.1 no"), "554 5.7.1 no"));
        assert_eq!(Answer::Failed.reply(), None);
        assert_eq!(Answer::Unavailable.reply(), None);
        assert_eq!(Answer::NotOffered.reply(), None);
    }
}
