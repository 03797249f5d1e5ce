//! Log records of Postfix's delivery agents.

use std::net::IpAddr;

use chatmail_core::destinations::Outcome;
use chatmail_core::federation::normal_domain;
use chatmail_core::grammar::is_domain;

/// What smtp(8) says about connections; like the unit of Postfix, the relay logs these lines with the address of the
/// server.
const ABOUT_SERVERS: [&str; 3] = [
    "connect to ",
    "certificate verification failed for ",
    "server certificate verification failed for ",
];

/// Parts of a reason, and what stands for them where the status code says less.
const PHRASES: [(&str, &str); 7] = [
    ("connect to ", "no connection"),
    ("lost connection with ", "connection lost"),
    ("timed out while ", "timeout"),
    ("DNS reply filter drops all results", "no public address"),
    ("TLS is required, but was not offered", "no TLS"),
    ("Server certificate not ", "invalid certificate"),
    ("delivery temporarily suspended", "suspended"),
];

/// Meanings of status codes (RFC 3463), without their class.
const CODES: [(&str, &str); 16] = [
    ("1.1", "no such mailbox"),
    ("1.2", "no such domain"),
    ("1.10", "domain takes no mail"),
    ("2.1", "mailbox disabled"),
    ("2.2", "mailbox full"),
    ("3.2", "server takes no mail now"),
    ("3.4", "message too large"),
    ("4.1", "no answer"),
    ("4.2", "connection lost"),
    ("4.3", "DNS failure"),
    ("4.4", "no such host"),
    ("4.6", "loop"),
    ("7.1", "refused"),
    ("7.4", "no TLS"),
    ("7.5", "not verified"),
    ("7.26", "not authenticated"),
];

/// Seconds of a delivery that do not matter to the mail of others that waits for a process.
const PROMPT: f64 = 10.0;

/// The result of an attempt to deliver to one recipient.
#[derive(Debug, PartialEq)]
pub(super) struct Record {
    /// Queue ID and recipient.
    pub(super) key: String,
    /// The domain of the recipient; none if it is not one.
    pub(super) domain: Option<String>,
    pub(super) outcome: Outcome,
    /// Seconds for the connection and the transmission, over all ways that smtp(8) has tried.
    pub(super) attempt: f64,
}

impl Record {
    /// Whether the destination accepts mail promptly; none if this does not tell.
    pub(super) fn accepts(&self) -> Option<bool> {
        match self.outcome {
            Outcome::Sent(_) => Some(self.attempt < PROMPT),
            Outcome::Deferred(_) => Some(false),
            Outcome::Bounced(_) => None,
        }
    }
}

/// Returns the text of a record without time and host: `postfix/smtp[123]: …`.
pub(super) fn text(datagram: &[u8]) -> Option<&str> {
    // `Nov 27 04:05:06 host `
    let text = std::str::from_utf8(datagram).ok()?.get(16..)?;
    text.split_once(' ').map(|(_, text)| text)
}

/// Parses the result of an attempt; none if the record is about something else.
///
/// Neither recipients nor the replies of other servers leave this function: only domains, status codes and phrases from
/// here.
pub(super) fn result(text: &str) -> Option<Record> {
    let (_, text) = text.split_once("]: ")?;
    let (id, rest) = text.split_once(": to=<")?;
    id.bytes().all(|b| b.is_ascii_alphanumeric()).then_some(())?;
    let (recipient, rest) = rest.split_once(">, ")?;
    // The reason is the last part, and other servers choose its text.
    let (fields, status) = rest.split_once(", status=")?;
    let field = |name: &str| {
        fields
            .split(", ")
            .find_map(|field| field.strip_prefix(name)?.strip_prefix('='))
    };
    let (status, why) = status.split_once(' ').unwrap_or((status, ""));
    // In the queue until now, within qmgr(8), and then in smtp(8).
    let delays = field("delays").unwrap_or_default().split('/').skip(2);
    let attempt = delays.filter_map(|delay| delay.parse::<f64>().ok()).sum();
    let reason = || reason(field("dsn").unwrap_or_default(), why);
    let outcome = match status {
        "sent" => Outcome::Sent(field("delay")?.parse().ok().filter(|delay| *delay >= 0.0)?),
        "deferred" => Outcome::Deferred(reason()),
        "bounced" => Outcome::Bounced(reason()),
        _ => return None,
    };
    let domain = recipient
        .rsplit_once('@')
        .map(|(_, domain)| normal_domain(domain));
    Some(Record {
        key: format!("{id} {recipient}"),
        // Without a dot, it is no domain on the internet.
        domain: domain.filter(|domain| domain.contains(['.', ':']) && is_domain(&with_tag(domain))),
        outcome,
        attempt,
    })
}

/// An IPv6 literal with the tag that RFC 5321 requires.
pub(super) fn with_tag(domain: &str) -> String {
    match domain.strip_prefix('[') {
        Some(literal) if literal.contains(':') => format!("[IPv6:{literal}"),
        _ => domain.to_owned(),
    }
}

/// A status code with its meaning, such as `5.1.1 no such mailbox`.
fn reason(code: &str, why: &str) -> String {
    let mut numbers = code.split('.').map(|number| number.parse::<u16>().ok());
    let valid = matches!(
        (numbers.next(), numbers.next(), numbers.next(), numbers.next()),
        (Some(Some(4 | 5)), Some(Some(_)), Some(Some(0..1000)), None)
    );
    let Some((_, detail)) = code.split_once('.').filter(|_| valid) else {
        return "unknown".to_owned();
    };
    let why = why.strip_prefix('(').unwrap_or(why);
    let said = |part: &str| why.starts_with(part) || (!why.starts_with("host ") && why.contains(part));
    let phrase = PHRASES.iter().find(|(part, _)| said(part));
    let meaning = phrase.or_else(|| CODES.iter().find(|(known, _)| *known == detail));
    match meaning {
        Some((_, meaning)) => format!("{code} {meaning}"),
        // Other servers choose codes; unknown ones are one reason.
        None => format!("{}.x.x other", code.get(..1).unwrap_or_default()),
    }
}

/// Whether the journal may contain a line: it names no mailbox and no address, except those of other servers.
pub(super) fn may_be_logged(text: &str) -> bool {
    if text.contains('@') {
        return false;
    }
    let said = text.split_once("]: ").map_or(text, |(_, said)| said);
    // A colon at the end can belong to the address.
    let is_address = |word: &str| {
        let ended = word.trim_end_matches(['.', ':']);
        [word, ended].iter().any(|word| word.parse::<IpAddr>().is_ok())
    };
    ABOUT_SERVERS.iter().any(|begin| said.starts_with(begin))
        || !said
            .split(|c: char| !(c.is_ascii_hexdigit() || matches!(c, '.' | ':')))
            .any(is_address)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(said: &str) -> Option<(Option<String>, Outcome)> {
        let line = format!("Nov 27 04:05:06 relay postfix/smtp[123]: {said}");
        let record = result(text(line.as_bytes())?)?;
        Some((record.domain, record.outcome))
    }

    #[test]
    fn destinations_that_accept_mail_promptly() {
        for (delays, status, expected) in [
            ("60/5/2/7.9", "sent", Some(true)),
            ("0/0/2/8.1", "sent", Some(false)),
            ("0/0/60/0.1", "sent", Some(false)),
            ("0/0/0/0", "deferred", Some(false)),
            ("0/0/0/0", "bounced", None),
        ] {
            let line = format!(
                "postfix/smtp[1]: 4bQ1: to=<a@b.test>, relay=x, delay=70, delays={delays}, dsn=2.0.0, status={status} (x)"
            );
            assert_eq!(result(&line).unwrap().accepts(), expected, "{line}");
        }
    }

    const FIELDS: &str = "relay=mx.b.test[192.0.2.1]:25, delay=0.35, delays=0.1/0/0.2/0.05";

    #[test]
    fn results_without_names() {
        let sent =
            format!("4bQ1: to=<a@B.test>, {FIELDS}, dsn=2.0.0, status=sent (250 2.0.0 Ok: queued as X)");
        assert_eq!(
            parsed(&sent),
            Some((Some("b.test".to_owned()), Outcome::Sent(0.35)))
        );
        let https = "4bQ1: to=<a@[192.0.2.1]>, orig_to=<x@y>, relay=127.0.0.1[127.0.0.1]:10083, conn_use=2, delay=12, delays=0/0/0/12, dsn=2.0.0, status=sent (250 OK (HTTPS))";
        assert_eq!(
            parsed(https),
            Some((Some("[192.0.2.1]".to_owned()), Outcome::Sent(12.0)))
        );
        for (dsn, why, reason) in [
            (
                "4.4.1",
                "connect to mx.b.test[192.0.2.1]:25: Connection refused",
                "4.4.1 no connection",
            ),
            (
                "4.4.2",
                "lost connection with mx.b.test[192.0.2.1] while sending RCPT TO",
                "4.4.2 connection lost",
            ),
            (
                "5.1.1",
                "host mx.b.test[192.0.2.1] said: 550 5.1.1 <a@b.test>: no, connect to me (in reply to RCPT TO command)",
                "5.1.1 no such mailbox",
            ),
            (
                "5.7.1",
                "host mx.b.test[192.0.2.1] said: 554 No valid DKIM signature found",
                "5.7.1 refused",
            ),
            (
                "4.7.5",
                "Server certificate not verified",
                "4.7.5 invalid certificate",
            ),
            (
                "5.9.123",
                "host mx.b.test[192.0.2.1] said: 550 5.9.123 x",
                "5.x.x other",
            ),
            ("5.1.1 no", "x", "unknown"),
            ("9.1.1", "x", "unknown"),
            ("", "x", "unknown"),
        ] {
            let line = format!("4bQ1: to=<a@b.test>, {FIELDS}, dsn={dsn}, status=deferred ({why})");
            let expected = Outcome::Deferred(reason.to_owned());
            assert_eq!(
                parsed(&line),
                Some((Some("b.test".to_owned()), expected)),
                "{line}"
            );
        }
    }

    #[test]
    fn odd_recipients_have_no_domain() {
        for to in [
            "a",
            "a@b",
            "a@b c.test",
            "a@x\u{1b}.test",
            "a@",
            "a@-.test",
            "a@other",
        ] {
            let line = format!("4bQ1: to=<{to}>, {FIELDS}, dsn=5.1.2, status=bounced (no)");
            let expected = Outcome::Bounced("5.1.2 no such domain".to_owned());
            assert_eq!(parsed(&line), Some((None, expected)), "{to}");
        }
        for other in [
            "4bQ1: removed",
            "warning: 4bQ1: to=<a@b.test>, relay=x, delay=1, dsn=2.0.0, status=sent (x)",
            "4bQ1: to=<a@b.test>, relay=x, delay=y, dsn=2.0.0, status=sent (x)",
            "4bQ1: to=<a@b.test>, relay=x, delay=1, dsn=2.0.0, status=undeliverable (x)",
            "4bQ1: to=<a@b.test>",
        ] {
            assert_eq!(parsed(other), None, "{other}");
        }
        assert_eq!(text(b"short"), None);
        assert_eq!(text(b"Nov 27 04:05:06 \xff x"), None);
    }

    #[test]
    fn the_journal_names_servers_only() {
        for line in [
            "postfix/smtp[1]: connect to mx.b.test[192.0.2.1]:25: Connection refused",
            "postfix/smtp[1]: server certificate verification failed for mx.b.test[2001:db8::1]:25: untrusted",
            "postfix/smtp[1]: warning: no MX host for b.test has a valid address record",
            "postfix/smtp[1]: fatal: unexpected: 12:34",
        ] {
            assert!(may_be_logged(line), "{line}");
        }
        for line in [
            "postfix/smtp[1]: connect to x@b.test",
            "postfix/smtp[1]: 4bQ1: host mx.b.test[192.0.2.1] said: 450 later",
            "postfix/smtp[1]: warning: 2001:db8::1: no",
            "postfix/smtp[1]: warning: ::1 refused",
            "postfix/smtp[1]: warning: to=<a@b.test>",
        ] {
            assert!(!may_be_logged(line), "{line}");
        }
    }
}
