//! As much of MIME as the policy needs (RFC 5322 section 2.2, RFC 2045, RFC 2046 section 5.1), over slices of the
//! message.
//!
//! Strict on purpose: where programs read a construct in different ways, it is no construct that we let pass as
//! encrypted. Lines end with CRLF; the SMTP side refuses everything else.

use std::borrow::Cow;

use memchr::{memchr, memmem};

/// Fields and body of a message or of a body part.
#[derive(Debug, Clone, Copy)]
pub struct Entity<'a> {
    /// Header fields with the empty line that ends them.
    pub head: &'a [u8],
    /// All that follows.
    pub body: &'a [u8],
}

/// A line of the header is no field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MalformedHeader;

impl<'a> Entity<'a> {
    /// Splits a message or a part at the first empty line and checks that all before it are fields.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, MalformedHeader> {
        let entity = Self::split(bytes);
        if entity.fields().any(|field| field.is_none()) {
            return Err(MalformedHeader);
        }
        Ok(entity)
    }

    /// Splits a message at the first empty line, whatever its header is.
    pub fn split(bytes: &'a [u8]) -> Self {
        let end = if bytes.starts_with(b"\r\n") {
            2
        } else {
            memmem::find(bytes, b"\r\n\r\n").map_or(bytes.len(), |at| at + 4)
        };
        let (head, body) = bytes.split_at_checked(end).unwrap_or((bytes, &[]));
        Self { head, body }
    }

    /// Name and raw value of each field, in order; none for what is no field.
    pub fn fields(&self) -> impl Iterator<Item = Option<(&'a [u8], &'a [u8])>> + use<'a> {
        let mut rest = self.head;
        std::iter::from_fn(move || {
            if rest.is_empty() || rest == b"\r\n" {
                return None;
            }
            // A field goes on while lines begin with white space.
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

    /// Raw values of all fields of this name.
    pub fn all<'n>(&self, name: &'n str) -> impl Iterator<Item = &'a [u8]> + use<'a, 'n> {
        self.fields()
            .flatten()
            .filter(move |(found, _)| found.eq_ignore_ascii_case(name.as_bytes()))
            .map(|(_, value)| value)
    }

    /// Raw value of the field that may stand only once; none when it is missing or repeated.
    pub fn only(&self, name: &str) -> Option<&'a [u8]> {
        let mut values = self.all(name);
        let first = values.next()?;
        values.next().is_none().then_some(first)
    }

    /// The value of a field that may stand only once, unfolded and trimmed; none when it is no UTF-8.
    pub fn text(&self, name: &str) -> Option<Cow<'a, str>> {
        let value = std::str::from_utf8(self.only(name)?).ok()?.trim();
        Some(if value.contains('\n') {
            Cow::Owned(value.replace("\r\n", ""))
        } else {
            Cow::Borrowed(value)
        })
    }

    /// The content type; none when it is missing, repeated or malformed.
    pub fn content_type(&self) -> Option<ContentType> {
        ContentType::parse(&self.text("Content-Type")?)
    }
}

/// RFC 5322 section 2.2: a name of printable characters, a colon, a value. White space before the colon is obsolete
/// and read differently by different programs.
fn split_field(field: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = memchr(b':', field)?;
    let (name, value) = field.split_at_checked(colon)?;
    let valid = !name.is_empty() && name.iter().all(u8::is_ascii_graphic);
    valid.then_some((name, value.get(1..)?))
}

/// Type and boundary of a `Content-Type` field (RFC 2045 section 5.1).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContentType {
    /// Type and subtype in lower case, as in `text/plain`.
    pub media_type: String,
    /// The `boundary` parameter.
    pub boundary: Option<String>,
}

impl ContentType {
    /// Parses an unfolded value; none when it is malformed or a parameter stands twice.
    pub fn parse(value: &str) -> Option<Self> {
        let (media_type, mut rest) = match value.split_once(';') {
            Some((media_type, rest)) => (media_type, rest),
            None => (value, ""),
        };
        let media_type = media_type.trim().to_ascii_lowercase();
        let (kind, subtype) = media_type.split_once('/')?;
        if !is_token(kind) || !is_token(subtype) {
            return None;
        }
        let mut boundary = None;
        loop {
            rest = rest.trim_start();
            if rest.is_empty() {
                return Some(Self { media_type, boundary });
            }
            let (name, after) = rest.split_once('=')?;
            let name = name.trim();
            let (value, after) = parameter_value(after.trim_start())?;
            if !is_token(name) {
                return None;
            }
            // RFC 2231 has other ways to write the same parameter; programs differ in whether they know them.
            if name.to_ascii_lowercase().starts_with("boundary*") {
                return None;
            }
            if name.eq_ignore_ascii_case("boundary") && boundary.replace(value).is_some() {
                return None;
            }
            let after = after.trim_start();
            rest = match after.strip_prefix(';') {
                Some(after) => after,
                None if after.is_empty() => after,
                None => return None,
            };
        }
    }
}

/// A token or a quoted string at the beginning, and what follows it.
fn parameter_value(text: &str) -> Option<(String, &str)> {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text
            .find(|c: char| c == ';' || c.is_ascii_whitespace())
            .unwrap_or(text.len());
        let (value, rest) = text.split_at_checked(end)?;
        return is_token(value).then(|| (value.to_owned(), rest));
    };
    let mut value = String::new();
    let mut chars = quoted.chars();
    loop {
        match chars.next()? {
            '"' => return Some((value, chars.as_str())),
            '\\' => value.push(chars.next()?),
            c => value.push(c),
        }
    }
}

/// RFC 2045 section 5.1, with the characters beyond it that programs write without quotes in practice.
fn is_token(text: &str) -> bool {
    let special = |b: u8| {
        matches!(
            b,
            b'(' | b')' | b'<' | b'>' | b'@' | b',' | b';' | b'\\' | b'"' | b'[' | b']'
        )
    };
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic() && !special(b))
}

/// The parts of a multipart body.
#[derive(Debug)]
pub struct Multipart<'a> {
    /// Text before the first delimiter.
    pub preamble: &'a [u8],
    /// The first parts, at most two.
    pub parts: Vec<Entity<'a>>,
    /// Text behind the closing delimiter.
    pub epilogue: &'a [u8],
}

/// Parts beyond this many are of no interest: nothing with more passes.
const MAX_PARTS: usize = 2;

impl<'a> Multipart<'a> {
    /// Splits a body (RFC 2046 section 5.1.1). None when the closing delimiter is missing, when there are more than
    /// two parts, when a part's header is malformed, or when a line begins like a delimiter and is none.
    pub fn parse(body: &'a [u8], boundary: &str) -> Option<Self> {
        // RFC 2046 section 5.1.1: 1 to 70 characters, not ending with a space.
        if boundary.is_empty() || boundary.len() > 70 || boundary.ends_with(' ') {
            return None;
        }
        let delimiter = format!("--{boundary}");
        let inner = format!("\r\n{delimiter}");
        let finder = memmem::Finder::new(&inner);
        // The line break before a delimiter belongs to it; the first may stand at the very beginning.
        let mut at = if body.starts_with(delimiter.as_bytes()) {
            Some((0, delimiter.len()))
        } else {
            finder.find(body).map(|at| (at, at + inner.len()))
        };
        let mut preamble = None;
        let mut parts = Vec::with_capacity(MAX_PARTS);
        let mut begin = 0;
        loop {
            let (end, after) = at?;
            let section = body.get(begin..end.max(begin))?;
            if preamble.is_none() {
                preamble = Some(section);
            } else if parts.len() < MAX_PARTS {
                parts.push(Entity::parse(section).ok()?);
            } else {
                return None;
            }
            let (closing, line_end) = delimiter_end(body.get(after..)?)?;
            begin = after + line_end;
            if closing {
                let epilogue = body.get(begin..)?;
                if memmem::find(epilogue, delimiter.as_bytes()).is_some() {
                    return None;
                }
                return Some(Self {
                    preamble: preamble?,
                    parts,
                    epilogue,
                });
            }
            // An empty part: its header ends where the next delimiter's line break begins.
            let from = begin.saturating_sub(2);
            at = finder
                .find(body.get(from..)?)
                .map(|at| (from + at, from + at + inner.len()));
        }
    }

    /// Whether text stands outside the parts.
    pub fn has_outside_text(&self) -> bool {
        let blank = |text: &[u8]| text.iter().all(u8::is_ascii_whitespace);
        !blank(self.preamble) || !blank(self.epilogue)
    }
}

/// What stands behind the boundary: whether it closes, and where the next line begins.
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

    #[test]
    fn fields_fold_and_repeat() {
        let message = b"From: a@b\r\nX-A: one\r\n two\r\n\tthree\r\nx-a: four\r\n\r\nbody";
        let entity = Entity::parse(message).unwrap();
        assert_eq!(entity.body, b"body");
        assert_eq!(entity.all("X-A").count(), 2);
        assert_eq!(entity.only("x-a"), None, "repeated");
        assert_eq!(entity.text("from").unwrap(), "a@b");
        let folded = Entity::parse(b"X: one\r\n two\r\n\tthree\r\n\r\n").unwrap();
        assert_eq!(folded.text("X").unwrap(), "one two\tthree");
    }

    #[test]
    fn lines_that_are_no_field() {
        for head in [
            "hello\r\n\r\n",
            "A: b\r\nhello\r\n\r\n",
            ": x\r\n\r\n",
            "A : b\r\n\r\n",
            " A: b\r\n\r\n",
        ] {
            assert!(Entity::parse(head.as_bytes()).is_err(), "{head:?}");
        }
        assert!(Entity::parse(b"\r\nbody").is_ok(), "no field at all");
        assert!(Entity::parse(b"A: b").is_ok(), "no body");
    }

    #[test]
    fn content_types() {
        let parse = |text| ContentType::parse(text).map(|t| (t.media_type, t.boundary));
        let both = |a: &str, b: &str| Some((a.to_owned(), Some(b.to_owned())));
        assert_eq!(parse("text/plain"), Some(("text/plain".to_owned(), None)));
        assert_eq!(
            parse("Multipart/Encrypted; boundary=x"),
            both("multipart/encrypted", "x")
        );
        assert_eq!(
            parse("multipart/encrypted; protocol=\"application/pgp-encrypted\";\tBOUNDARY=\"a b\\\"c\" ;"),
            both("multipart/encrypted", "a b\"c")
        );
        for bad in [
            "text",
            "text/",
            "a/b; boundary=x; boundary=y",
            "a/b; boundary=\"x",
            "a/b; boundary",
            "a/b; boundary*=x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    fn split(body: &str) -> Option<(bool, Vec<String>)> {
        let multipart = Multipart::parse(body.as_bytes(), "B")?;
        let text = |part: &Entity<'_>| String::from_utf8_lossy(part.body).into_owned();
        Some((
            multipart.has_outside_text(),
            multipart.parts.iter().map(text).collect(),
        ))
    }

    #[test]
    fn multipart_bodies() {
        let two = |a: &str, b: &str| vec![a.to_owned(), b.to_owned()];
        assert_eq!(
            split("--B\r\n\r\none\r\n--B\r\nX: y\r\n\r\ntwo\r\n--B--\r\n"),
            Some((false, two("one", "two")))
        );
        assert_eq!(
            split("hello\r\n--B \r\n\r\none\r\n--B\r\n\r\n\r\n--B--"),
            Some((true, two("one", "")))
        );
        assert_eq!(
            split("--B\r\n\r\none\r\n--B--\r\nhello"),
            Some((true, vec!["one".to_owned()]))
        );
        for bad in [
            "",
            "--B\r\n\r\none\r\n",
            "--B\r\n\r\none\r\n--Bx\r\n\r\n--B--\r\n",
            "--B\r\n\r\n1\r\n--B\r\n\r\n2\r\n--B\r\n\r\n3\r\n--B--\r\n",
            "--B\r\nhello\r\n\r\none\r\n--B--\r\n",
            "--B\r\n\r\none\r\n--B--\r\n--B\r\n\r\n\r\n--B--\r\n",
        ] {
            assert_eq!(split(bad), None, "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(text in "(--B|--|\r\n|B|x|: |a/b;|boundary=|\"|\\\\){0,40}") {
            let _ = split(&text);
            let _ = ContentType::parse(&text);
            let _ = Entity::parse(text.as_bytes()).map(|entity| entity.content_type());
        }
    }
}
