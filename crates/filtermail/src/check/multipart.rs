//! Multipart bodies (RFC 2046 section 5.1.1).

use memchr::{memchr, memmem};

use super::Direction;
use super::mime::Entity;

/// Preambles of encrypted messages: Thunderbird, Enigmail and Roundcube write the first, GPGMail and older versions of
/// Enigmail the second.
pub(super) const ENCRYPTED_PREAMBLES: [&str; 2] = [
    "This is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)",
    "This is an OpenPGP/MIME encrypted message (RFC 2440 and 3156)",
];
/// The preamble of reports of Postfix, Sendmail and Dovecot.
pub(super) const REPORT_PREAMBLES: [&str; 1] = ["This is a MIME-encapsulated message."];

/// The parts of a multipart body.
#[derive(Debug)]
pub(super) struct Multipart<'a> {
    preamble: &'a [u8],
    parts: Vec<Entity<'a>>,
    epilogue: &'a [u8],
}

/// Maximum number of parts; no message with more passes.
const MAX_PARTS: usize = 4;

impl<'a> Multipart<'a> {
    /// Splits a body. None if the closing delimiter is missing, there are too many parts, the header of a part is
    /// malformed, or a line begins like a delimiter but is not one.
    fn parse(body: &'a [u8], boundary: &str) -> Option<Self> {
        let delimiter = format!("--{boundary}");
        let inner = format!("\r\n{delimiter}");
        let finder = memmem::Finder::new(&inner);
        // The line break before a delimiter belongs to it; the first delimiter may be at the very beginning.
        let mut at = if body.starts_with(delimiter.as_bytes()) {
            Some((0, delimiter.len()))
        } else {
            finder.find(body).map(|at| (at, at + inner.len()))
        };
        let mut preamble = None;
        let mut parts = Vec::new();
        let mut begin = 0;
        loop {
            let (end, after) = at?;
            let section = body.get(begin..end.max(begin))?;
            if preamble.is_none() {
                preamble = Some(section);
            } else if parts.len() < MAX_PARTS {
                parts.push(Entity::part(section).ok()?);
            } else {
                return None;
            }
            let (closing, line_end) = delimiter_end(body.get(after..)?)?;
            begin = after + line_end;
            if closing {
                return Some(Self {
                    preamble: preamble?,
                    parts,
                    epilogue: body.get(begin..)?,
                });
            }
            // An empty part: its header ends where the next delimiter's line break begins.
            let from = begin.saturating_sub(2);
            at = finder
                .find(body.get(from..)?)
                .map(|at| (from + at, from + at + inner.len()));
        }
    }

    /// The parts, if the body contains nothing else, except for one of these preambles in arriving mail.
    fn alone(self, preambles: &[&str], direction: Direction) -> Option<Vec<Entity<'a>>> {
        let preamble = trim(self.preamble);
        let known =
            direction == Direction::Incoming && preambles.iter().any(|text| preamble == text.as_bytes());
        (trim(self.epilogue).is_empty() && (preamble.is_empty() || known)).then_some(self.parts)
    }
}

/// The parts of a multipart message. None if programs may find other parts in it, or text outside the parts.
pub(super) fn parts<'a>(
    message: &Entity<'a>,
    preambles: &[&str],
    direction: Direction,
) -> Option<Vec<Entity<'a>>> {
    let content_type = message.content_type()?;
    Multipart::parse(message.body, content_type.boundary()?)?.alone(preambles, direction)
}

/// Whether, apart from `delimiters` lines (including the closing one) and the `allowed` lines, no line begins like a
/// delimiter. Then it makes no difference which boundary a program uses.
pub(super) fn has_no_other_delimiter(body: &[u8], delimiters: usize, allowed: &[&[u8]]) -> bool {
    let mut left = delimiters;
    let begins = memmem::find_iter(body, b"\n--").map(|at| at + 1);
    let first = body.starts_with(b"--").then_some(0);
    first.into_iter().chain(begins).all(|at| {
        let line = body.get(at..).unwrap_or_default();
        let end = memchr(b'\r', line).unwrap_or(line.len());
        let line = line.get(..end).unwrap_or_default();
        allowed.contains(&line) || {
            let counted = left > 0;
            left = left.saturating_sub(1);
            counted
        }
    })
}

fn trim(mut text: &[u8]) -> &[u8] {
    let blank = |b: &u8| matches!(b, b' ' | b'\t' | b'\r' | b'\n');
    while let Some((_, rest)) = text.split_first().filter(|(b, _)| blank(b)) {
        text = rest;
    }
    while let Some((_, rest)) = text.split_last().filter(|(b, _)| blank(b)) {
        text = rest;
    }
    text
}

/// Parses the text after a boundary: whether the delimiter closes, and where the next line begins.
fn delimiter_end(rest: &[u8]) -> Option<(bool, usize)> {
    let closing = rest.starts_with(b"--");
    let rest_line = if closing { rest.get(2..)? } else { rest };
    let end = memchr(b'\n', rest_line).map_or(rest_line.len(), |at| at + 1);
    let line = rest_line.get(..end)?;
    let blank = line.iter().all(|b| matches!(b, b' ' | b'\t' | b'\r' | b'\n'));
    blank.then_some((closing, end + if closing { 2 } else { 0 }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(body: &str) -> Option<Vec<String>> {
        let multipart = Multipart::parse(body.as_bytes(), "B")?;
        let text = |part: &Entity<'_>| String::from_utf8_lossy(part.body).into_owned();
        Some(multipart.parts.iter().map(text).collect())
    }

    #[test]
    fn multipart_bodies() {
        let list = |texts: &[&str]| Some(texts.iter().map(|text| (*text).to_owned()).collect());
        assert_eq!(
            split("--B\r\n\r\none\r\n--B\r\nX: y\r\n\r\ntwo\r\n--B--\r\n"),
            list(&["one", "two"])
        );
        assert_eq!(
            split("hello\r\n--B \r\n\r\none\r\n--B\r\n\r\n\r\n--B--"),
            list(&["one", ""])
        );
        assert_eq!(split("--B\r\n\r\none\r\n--B--\r\nhello"), list(&["one"]));
        for bad in [
            "",
            "--B\r\n\r\none\r\n",
            "--B\r\n\r\none\r\n--Bx\r\n\r\n--B--\r\n",
            "--B\r\nhello\r\n\r\none\r\n--B--\r\n",
            "--B\r\nX : y\r\n\r\none\r\n--B--\r\n",
            "--B\r\n \r\none\r\n--B--\r\n",
            "--B\r\nX: y\r\n \r\none\r\n\r\ntwo\r\n--B--\r\n",
            &"--B\r\n\r\n1\r\n".repeat(6),
        ] {
            assert_eq!(split(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn nothing_but_a_known_sentence_stands_outside_of_the_parts() {
        let alone = |body: &str, direction| {
            let multipart = Multipart::parse(body.as_bytes(), "B").unwrap();
            multipart.alone(&ENCRYPTED_PREAMBLES, direction).is_some()
        };
        let both = |body: &str| (alone(body, Direction::Incoming), alone(body, Direction::Outgoing));
        assert_eq!(both("\r\n \r\n--B\r\n\r\n\r\n--B--\r\n\r\n\t\r\n"), (true, true));
        for text in ENCRYPTED_PREAMBLES {
            assert_eq!(
                both(&format!("{text}\r\n\r\n--B\r\n\r\n\r\n--B--\r\n")),
                (true, false)
            );
            assert_eq!(
                both(&format!("x {text}\r\n--B\r\n\r\n\r\n--B--\r\n")),
                (false, false)
            );
            assert_eq!(
                both(&format!("--B\r\n\r\n\r\n--B--\r\n{text}\r\n")),
                (false, false)
            );
        }
        assert_eq!(both("hello\r\n--B\r\n\r\n\r\n--B--\r\n"), (false, false));
        assert_eq!(
            both("--B\r\n\r\n\r\n--B--\r\n--B\r\n\r\nx\r\n--B--\r\n"),
            (false, false)
        );
        assert_eq!(both("\u{a0}\r\n--B\r\n\r\n\r\n--B--\r\n"), (false, false));
    }

    #[test]
    fn lines_like_delimiters_are_counted() {
        let body = b"--B\r\n-----X\r\n--B\r\nA--\r\n--B--\r\n";
        assert!(has_no_other_delimiter(body, 3, &[b"-----X"]));
        assert!(!has_no_other_delimiter(body, 2, &[b"-----X"]));
        assert!(!has_no_other_delimiter(body, 3, &[b"-----"]));
        assert!(!has_no_other_delimiter(b"\r\n--B\r\n--a\r\n--B--\r\n", 2, &[]));
    }

    proptest! {
        #[test]
        fn never_panics(text in "(--B|--|\r\n|B|x|: |a/b;|boundary=|\"|\\\\){0,40}") {
            let _ = split(&text);
        }
    }
}
