//! Header fields of messages and of their parts (RFC 5322 section 2.2), over slices of the message.
//!
//! The parser is strict on purpose: a message with a construct that programs parse differently does not pass as
//! encrypted. Lines end with CRLF; the SMTP side rejects everything else.

use std::borrow::Cow;

use memchr::{memchr, memmem};

use super::content_type::ContentType;

/// Fields and body of a message or of a body part.
#[derive(Debug, Clone, Copy)]
pub struct Entity<'a> {
    /// Header fields with the empty line that ends them.
    pub head: &'a [u8],
    /// Everything after the header.
    pub body: &'a [u8],
}

/// A line of the header is not a field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedHeader;

impl<'a> Entity<'a> {
    /// Splits a message at the first empty line and checks that all lines before it are fields.
    ///
    /// White space before a colon is obsolete but has to be accepted (RFC 5322 section 4), and Postfix removes it when
    /// it queues the message. Not all programs accept it, so a field that a decision depends on must not have it.
    pub fn message(bytes: &'a [u8]) -> Result<Self, MalformedHeader> {
        Self::checked(bytes, decides)
    }

    /// The same for a part, in which Postfix changes nothing: no field has white space before its colon, or is folded
    /// or repeated in a way that programs parse differently.
    pub(super) fn part(bytes: &'a [u8]) -> Result<Self, MalformedHeader> {
        let entity = Self::checked(bytes, |_| true)?;
        match entity.is_plain() {
            true => Ok(entity),
            false => Err(MalformedHeader),
        }
    }

    /// Checks that every line is a field, and that no `strict` field has white space before its colon.
    fn checked(bytes: &'a [u8], strict: fn(&[u8]) -> bool) -> Result<Self, MalformedHeader> {
        let entity = Self::split(bytes);
        let sound = |(name, _): (&[u8], &[u8])| {
            let short = trim_blanks_end(name);
            short.len() == name.len() || !strict(short)
        };
        // Programs written in C end a line at NUL.
        if memchr(0, entity.head).is_some() || !entity.fields().all(|field| field.is_some_and(sound)) {
            return Err(MalformedHeader);
        }
        Ok(entity)
    }

    /// Splits a message at the first empty line without checking its header.
    pub fn split(bytes: &'a [u8]) -> Self {
        let end = if bytes.starts_with(b"\r\n") {
            2
        } else {
            memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4)
        };
        let (head, body) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
        Self { head, body }
    }

    /// Whether all programs find the same end of the header, and the same field where only one counts.
    pub(super) fn is_plain(&self) -> bool {
        let mut single: Vec<Vec<u8>> = self
            .names()
            .filter(|name| decides(name) && !may_repeat(name))
            .map(<[u8]>::to_ascii_lowercase)
            .collect();
        single.sort_unstable();
        let repeated = single.windows(2).any(|pair| matches!(pair, [a, b] if a == b));
        !repeated && !has_blank_line(self.head)
    }

    /// Name and raw value of each field, in order; none for a malformed one. White space before the colon counts as
    /// part of the name.
    pub fn fields(&self) -> impl Iterator<Item = Option<(&'a [u8], &'a [u8])>> + use<'a> {
        let mut rest = self.head;
        std::iter::from_fn(move || {
            if rest.is_empty() || rest == b"\r\n" {
                return None;
            }
            // A field continues while lines begin with white space.
            let mut end = 0;
            loop {
                let line = memchr(b'\n', rest.get(end..)?).map_or(rest.len(), |at| end + at + 1);
                end = line;
                if !matches!(rest.get(end), Some(b' ' | b'\t')) {
                    break;
                }
            }
            let (field, later) = rest.split_at_checked(end)?;
            rest = later;
            Some(split_field(field))
        })
    }

    /// Names of all fields, in order.
    pub(super) fn names(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        self.fields().flatten().map(|(name, _)| trim_blanks_end(name))
    }

    /// Raw values of all fields of this name.
    pub(super) fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields()
            .flatten()
            .filter(move |(found, _)| trim_blanks_end(found).eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Raw value of a field that may occur only once; none if it is missing or repeated.
    pub(super) fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }

    /// The value of a field that may occur only once, unfolded and trimmed; none if it is not text.
    pub(super) fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        unfold(self.only(name)?)
    }

    /// The content type; none if it is missing, repeated or malformed.
    pub(super) fn content_type(&self) -> Option<ContentType> {
        ContentType::parse(&self.text("Content-Type")?)
    }
}

/// RFC 5322 section 2.2: a name of printable characters, a colon, a value.
fn split_field(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', field)?;
    let (name, value) = field.split_at_checked(colon)?;
    let printed = trim_blanks_end(name);
    let valid = !printed.is_empty() && printed.iter().all(u8::is_ascii_graphic);
    valid.then_some((name, value.get(1..)?))
}

fn trim_blanks_end(mut text: &[u8]) -> &[u8] {
    while let [shorter @ .., b' ' | b'\t'] = text {
        text = shorter;
    }
    text
}

/// Whether the header contains a line of white space, which ends the header for some programs.
fn has_blank_line(head: &[u8]) -> bool {
    head.split(|b| *b == b'\n')
        .any(|line| matches!(line, [b' ' | b'\t', ..]) && line.iter().all(u8::is_ascii_whitespace))
}

/// Unfolds a raw value (RFC 5322 section 2.2.3) and trims it. None if it is not UTF-8 or contains control characters.
pub(super) fn unfold(raw: &[u8]) -> Option<Cow<'_, str>> {
    let text = std::str::from_utf8(raw)
        .ok()?
        .trim_matches([' ', '\t', '\r', '\n']);
    let unfolded = match text.contains('\n') {
        true => Cow::Owned(text.replace("\r\n", "")),
        false => Cow::Borrowed(text),
    };
    let clean = unfolded.chars().all(|c| c == '\t' || !c.is_control());
    clean.then_some(unfolded)
}

/// Fields that determine who wrote a message, how it is structured, or how a client treats it.
const DECIDING: [&str; 21] = [
    "auto-submitted",
    "bcc",
    "cc",
    "date",
    "dkim-signature",
    "disposition-notification-to",
    "from",
    "in-reply-to",
    "list-id",
    "list-post",
    "message-id",
    "mime-version",
    "precedence",
    "references",
    "reply-to",
    "return-path",
    "sender",
    "subject",
    "tls-required",
    "to",
    "x-microsoft-original-message-id",
];

/// Prefixes of the names of further such fields.
const DECIDING_FAMILIES: [&str; 5] = ["autocrypt", "chat-", "content-", "resent-", "secure-join"];

fn decides(name: &[u8]) -> bool {
    let begins = |family: &&str| {
        name.get(..family.len())
            .is_some_and(|begin| begin.eq_ignore_ascii_case(family.as_bytes()))
    };
    DECIDING
        .iter()
        .any(|known| name.eq_ignore_ascii_case(known.as_bytes()))
        || DECIDING_FAMILIES.iter().any(begins)
}

/// Such fields that may occur more than once: signatures, and one block for each time that a message was resent (RFC
/// 5322 section 3.6.6).
fn may_repeat(name: &[u8]) -> bool {
    name.eq_ignore_ascii_case(b"DKIM-Signature")
        || name.eq_ignore_ascii_case(b"Return-Path")
        || name
            .get(..7)
            .is_some_and(|begin| begin.eq_ignore_ascii_case(b"resent-"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn fields_fold_and_repeat() {
        let message = b"From: a@b\r\nX-A: one\r\n two\r\n\tthree\r\nx-a: four\r\n\r\nbody";
        let entity = Entity::message(message).unwrap();
        assert_eq!(entity.body, b"body");
        assert_eq!(entity.all("X-A").count(), 2);
        assert_eq!(entity.only("x-a"), None, "repeated");
        assert_eq!(entity.text("from").unwrap(), "a@b");
        let folded = Entity::message(b"X: one\r\n two\r\n\tthree\r\n\r\n").unwrap();
        assert_eq!(folded.text("X").unwrap(), "one two\tthree");
    }

    #[test]
    fn lines_that_are_no_field() {
        for head in [
            "hello\r\n\r\n",
            "A: b\r\nhello\r\n\r\n",
            ": x\r\n\r\n",
            " : x\r\n\r\n",
            "A b : c\r\n\r\n",
            " A: b\r\n\r\n",
            "A: b\0c\r\n\r\n",
            "\u{e9}: b\r\n\r\n",
            "From a@b.test Thu Nov 26 08:00:00 2026\r\n\r\n",
        ] {
            assert!(Entity::message(head.as_bytes()).is_err(), "{head:?}");
        }
        assert!(Entity::message(b"\r\nbody").is_ok(), "no field at all");
        assert!(Entity::message(b"A: b").is_ok(), "no body");
    }

    #[test]
    fn white_space_before_a_colon_stands_only_in_fields_that_decide_nothing() {
        for name in ["X-Foo", "Received", "x", "Contents", "Organization"] {
            let head = format!("{name} \t: b\r\n\r\n");
            let entity = Entity::message(head.as_bytes()).unwrap();
            assert_eq!(entity.text(name).unwrap(), "b");
            assert!(Entity::part(head.as_bytes()).is_err(), "{name} in a part");
        }
        for name in [
            "From",
            "SENDER",
            "Content-Type",
            "content-foo",
            "MIME-Version",
            "DKIM-Signature",
            "Autocrypt",
            "Autocrypt-Gossip",
            "Secure-Join",
            "Secure-Join-Auth",
            "Chat-Version",
            "Subject",
            "Resent-From",
            "Reply-To",
        ] {
            let head = format!("{name} : b\r\n\r\n");
            assert!(Entity::message(head.as_bytes()).is_err(), "{name}");
        }
    }

    #[test]
    fn what_decides_stands_once_and_no_line_is_blank() {
        let plain = |head: &str| Entity::message(head.as_bytes()).unwrap().is_plain();
        assert!(plain(
            "From: a\r\nX: 1\r\nX: 2\r\nReceived: 1\r\nReceived: 2\r\n\r\n"
        ));
        assert!(plain(
            "DKIM-Signature: 1\r\nDKIM-Signature: 2\r\nX:\r\n y\r\n\r\n"
        ));
        for head in [
            "Content-Type: a/b\r\ncontent-type: a/b\r\n\r\n",
            "MIME-Version: 1.0\r\nMIME-Version: 1.0\r\n\r\n",
            "Secure-Join: a\r\nSecure-Join: b\r\n\r\n",
            "Chat-Version: a\r\nX: y\r\nchat-version: b\r\n\r\n",
            "Subject: a\r\nSubject: b\r\n\r\n",
            "X: y\r\n \r\nContent-Type: a/b\r\n\r\n",
            "X: y\r\n\t\r\n\r\n",
        ] {
            assert!(!plain(head), "{head:?}");
            assert!(Entity::part(head.as_bytes()).is_err(), "{head:?}");
        }
    }

    #[test]
    fn values_are_text() {
        assert_eq!(unfold(b" a\r\n b \r\n").unwrap(), "a b");
        assert_eq!(unfold(" \u{e9}\r\n".as_bytes()).unwrap(), "\u{e9}");
        assert_eq!(
            unfold("\u{a0}a".as_bytes()).unwrap(),
            "\u{a0}a",
            "no white space of ours"
        );
        assert_eq!(unfold(b"a\x0bb"), None);
        assert_eq!(unfold(b"a\xffb"), None);
    }

    proptest! {
        #[test]
        fn never_panics(text in "(--B|--|\r\n|B|x|: | |\t|a/b;|boundary=|\"|\\\\){0,40}") {
            for entity in [Entity::message(text.as_bytes()), Entity::part(text.as_bytes())].into_iter().flatten() {
                let _ = entity.content_type();
                prop_assert_eq!(entity.head.len() + entity.body.len(), text.len());
            }
        }
    }
}
