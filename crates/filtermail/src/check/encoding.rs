//! Content transfer encodings (RFC 2045 section 6), decoded in pieces of fixed size. Memory holds only one piece,
//! whatever the size of the part.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;

use super::Direction;
use super::mime::{Entity, unfold};
use super::sink::{NotEncrypted, Sink};

/// Characters decoded at once: a multiple of four, and small enough to stay in the first-level cache with the output.
const CHARS: usize = 4096;

/// How a body is encoded.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Identity,
    Base64,
    QuotedPrintable,
}

/// Whether the body of a message is not encoded, as RFC 2045 section 6.4 requires of a multipart.
pub(super) fn is_identity(entity: &Entity<'_>, direction: Direction) -> bool {
    encoding(entity, direction) == Some(Encoding::Identity)
}

/// Feeds the decoded body of a part to `sink`. Gateways may re-encode parts (RFC 2045 section 6.1); in submitted mail
/// parts are not encoded.
pub(super) fn decode<S: Sink>(
    part: &Entity<'_>,
    direction: Direction,
    mut sink: S,
) -> Result<S, NotEncrypted> {
    match encoding(part, direction).ok_or(NotEncrypted)? {
        Encoding::Identity => {
            sink.feed(part.body)?;
            Ok(sink)
        }
        Encoding::Base64 => {
            let mut decoder = Base64::new(sink);
            let mut body = part.body;
            while !body.is_empty() {
                let line = memchr(b'\r', body).unwrap_or(body.len());
                let (line, rest) = body.split_at_checked(line).ok_or(NotEncrypted)?;
                decoder.chars(line)?;
                body = match rest.is_empty() {
                    true => rest,
                    false => rest.strip_prefix(b"\r\n").ok_or(NotEncrypted)?,
                };
            }
            decoder.finish()
        }
        Encoding::QuotedPrintable => {
            quoted_printable(part.body, &mut sink)?;
            Ok(sink)
        }
    }
}

/// The encoding of a body. None for forms that programs parse differently: other names, comments, and white space that
/// some programs take for part of the name.
fn encoding(entity: &Entity<'_>, direction: Direction) -> Option<Encoding> {
    let mut values = entity.all("Content-Transfer-Encoding");
    let Some(raw) = values.next() else {
        return Some(Encoding::Identity);
    };
    if values.next().is_some() {
        return None;
    }
    let name = unfold(raw)?.to_ascii_lowercase();
    // Some programs keep white space around the name, and then do not decode the body.
    let exact = raw
        .strip_suffix(b"\r\n")
        .is_some_and(|value| value.trim_ascii_start().len() == name.len() && !value.contains(&b'\n'));
    match (name.as_str(), direction) {
        ("7bit" | "8bit", _) | ("binary", Direction::Incoming) => Some(Encoding::Identity),
        ("base64", Direction::Incoming) if exact => Some(Encoding::Base64),
        ("quoted-printable", Direction::Incoming) if exact => Some(Encoding::QuotedPrintable),
        _ => None,
    }
}

/// Decodes base64 in pieces of any size.
pub(super) struct Base64<S> {
    sink: S,
    chars: [u8; CHARS],
    filled: usize,
    /// Whether padding was decoded, after which no data may follow.
    padded: bool,
}

impl<S: Sink> Base64<S> {
    /// Feeds the decoded bytes to `sink`.
    pub(super) fn new(sink: S) -> Self {
        Self {
            sink,
            chars: [0; CHARS],
            filled: 0,
            padded: false,
        }
    }

    /// Accepts the next characters, without line breaks.
    pub(super) fn chars(&mut self, mut line: &[u8]) -> Result<(), NotEncrypted> {
        while !line.is_empty() {
            let space = self.chars.get_mut(self.filled..).ok_or(NotEncrypted)?;
            let (now, later) = line.split_at(line.len().min(space.len()));
            space
                .get_mut(..now.len())
                .ok_or(NotEncrypted)?
                .copy_from_slice(now);
            self.filled += now.len();
            line = later;
            if self.filled == CHARS {
                self.decode()?;
            }
        }
        Ok(())
    }

    fn decode(&mut self) -> Result<(), NotEncrypted> {
        if self.padded {
            return Err(NotEncrypted);
        }
        let mut bytes = [0; CHARS / 4 * 3];
        let chars = self.chars.get(..self.filled).ok_or(NotEncrypted)?;
        let decoded = STANDARD
            .decode_slice(chars, &mut bytes)
            .map_err(|_| NotEncrypted)?;
        self.padded = decoded < self.filled / 4 * 3;
        self.filled = 0;
        self.sink.feed(bytes.get(..decoded).ok_or(NotEncrypted)?)
    }

    /// Decodes the rest and returns the sink.
    pub(super) fn finish(mut self) -> Result<S, NotEncrypted> {
        if self.filled > 0 {
            self.decode()?;
        }
        Ok(self.sink)
    }
}

/// Decodes RFC 2045 section 6.7. Rejects forms that programs decode differently: white space at the end of a line, and
/// `=` before anything but two upper-case hexadecimal digits or a line break.
fn quoted_printable(mut body: &[u8], sink: &mut impl Sink) -> Result<(), NotEncrypted> {
    while !body.is_empty() {
        let end = memchr(b'\r', body).unwrap_or(body.len());
        let (mut line, rest) = body.split_at_checked(end).ok_or(NotEncrypted)?;
        let line_break = match rest.is_empty() {
            true => rest,
            false => b"\r\n",
        };
        body = rest.strip_prefix(line_break).ok_or(NotEncrypted)?;
        let soft = match line.strip_suffix(b"=") {
            // Nothing follows a soft line break.
            Some(_) if line_break.is_empty() => return Err(NotEncrypted),
            Some(shorter) => {
                line = shorter;
                true
            }
            None => false,
        };
        if line.ends_with(b" ") || line.ends_with(b"\t") {
            return Err(NotEncrypted);
        }
        while !line.is_empty() {
            let (plain, escape) = line
                .split_at_checked(memchr(b'=', line).unwrap_or(line.len()))
                .ok_or(NotEncrypted)?;
            if !plain
                .iter()
                .all(|b| matches!(b, b' ' | b'\t') || b.is_ascii_graphic())
            {
                return Err(NotEncrypted);
            }
            sink.feed(plain)?;
            line = match escape {
                [b'=', high, low, rest @ ..] => {
                    sink.feed(&[hex(*high)? << 4 | hex(*low)?])?;
                    rest
                }
                [] => escape,
                _ => return Err(NotEncrypted),
            };
        }
        if !soft {
            sink.feed(line_break)?;
        }
    }
    Ok(())
}

fn hex(digit: u8) -> Result<u8, NotEncrypted> {
    match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'A'..=b'F' => Ok(digit - b'A' + 10),
        _ => Err(NotEncrypted),
    }
}

/// Collects a short text; a longer one is an error.
pub(super) struct Short(Vec<u8>);

/// Maximum length of a short text.
const MAX_SHORT: usize = 128;

impl Short {
    /// The decoded body of a part, without white space around it, if it is short.
    pub(super) fn decoded(part: &Entity<'_>, direction: Direction) -> Option<Vec<u8>> {
        let Self(text) = decode(part, direction, Self(Vec::new())).ok()?;
        Some(text.trim_ascii().to_vec())
    }
}

impl Sink for Short {
    fn feed(&mut self, bytes: &[u8]) -> Result<(), NotEncrypted> {
        if self.0.len() + bytes.len() > MAX_SHORT {
            return Err(NotEncrypted);
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decoded(field: &str, body: &str) -> Option<String> {
        let text = format!("{field}\r\n{body}");
        let part = Entity::part(text.as_bytes()).unwrap();
        assert!(decode(&part, Direction::Outgoing, Short(Vec::new())).is_err() || !field.contains("64"));
        let Short(bytes) = decode(&part, Direction::Incoming, Short(Vec::new())).ok()?;
        Some(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn encodings_that_arrive() {
        let qp = "Content-Transfer-Encoding: Quoted-Printable\r\n";
        let base64 = "Content-Transfer-Encoding: BASE64\r\n";
        for field in [
            "",
            "Content-Transfer-Encoding: 7BIT\r\n",
            "Content-Transfer-Encoding:  binary \r\n",
        ] {
            assert_eq!(decoded(field, "a=3D\r\n").unwrap(), "a=3D\r\n");
        }
        assert_eq!(decoded(qp, "a=3Db=\r\nc=20\r\nd").unwrap(), "a=bc \r\nd");
        assert_eq!(decoded(base64, "YSBi\r\nDQo=\r\n").unwrap(), "a b\r\n");
        for body in [
            "a=3d", "a=", "a=\r", "a=b", "a \r\n", "a =\r\nb", "a\u{e9}", "a==\r\n",
        ] {
            assert_eq!(decoded(qp, body), None, "{body:?}");
        }
        for body in [
            "YSBi\r\n=\r\n",
            "YSB",
            "YSBi YSBi",
            "YQ==YQ==",
            "YSBi\r\n\r\nhello you",
        ] {
            assert_eq!(decoded(base64, body), None, "{body:?}");
        }
    }

    #[test]
    fn encodings_that_are_read_differently() {
        for value in [
            "base64 ",
            "\r\n base64",
            "base64;",
            "base64 (x)",
            "x-uuencode",
            "7bit (x)",
            "",
            "=?utf-8?q?base64?=",
        ] {
            let field = format!("Content-Transfer-Encoding: {value}\r\n");
            assert_eq!(decoded(&field, "YSBi"), None, "{value:?}");
        }
    }

    proptest! {
        #[test]
        fn base64_in_lines_of_any_width(bytes in prop::collection::vec(any::<u8>(), 0..96), width in 1usize..80) {
            let chars = STANDARD.encode(&bytes);
            let lines: Vec<&str> = chars.as_bytes().chunks(width).map(|line| std::str::from_utf8(line).unwrap()).collect();
            let text = format!("Content-Transfer-Encoding: base64\r\n\r\n{}\r\n", lines.join("\r\n"));
            let part = Entity::part(text.as_bytes()).unwrap();
            let Short(found) = decode(&part, Direction::Incoming, Short(Vec::new())).ok().unwrap();
            prop_assert_eq!(found, bytes);
        }

        #[test]
        fn quoted_printable_never_panics(body in "(=|3|D|\r|\n|\r\n| |x|é){0,30}") {
            let mut short = Short(Vec::new());
            let _ = quoted_printable(body.as_bytes(), &mut short);
        }
    }
}
