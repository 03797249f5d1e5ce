//! Hash of the canonical body (RFC 6376 section 3.4), fed with the largest unchanged pieces.

use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::common::headers::{Writable, Writer};
use mail_auth::dkim::Canonicalization;
use memchr::memchr2;

/// SHA-256 of the body in canonical form.
pub fn body_hash(canonicalization: Canonicalization, body: &[u8]) -> Vec<u8> {
    let canonical = match canonicalization {
        Canonicalization::Simple => Canonical::Simple(body),
        Canonicalization::Relaxed => Canonical::Relaxed(body),
    };
    HashAlgorithm::Sha256.hash(canonical).as_ref().to_vec()
}

enum Canonical<'a> {
    Simple(&'a [u8]),
    Relaxed(&'a [u8]),
}

impl Writable for Canonical<'_> {
    fn write(self, hash: &mut impl Writer) {
        match self {
            Self::Simple(body) => {
                hash.write(without_empty_lines(body, |line| line));
                hash.write(b"\r\n");
            }
            Self::Relaxed(body) => {
                let body = without_empty_lines(body, trim_blanks);
                if !body.is_empty() {
                    let mut pieces = Pieces {
                        hash,
                        held: Vec::with_capacity(HELD),
                    };
                    relaxed_lines(body, &mut pieces);
                    pieces.write(b"\r\n");
                    pieces.flush();
                }
            }
        }
    }
}

/// Size up to which small pieces are hashed together.
const HELD: usize = 4096;

/// Joins small pieces: otherwise a body with a space at every second byte would call the hash for each byte.
struct Pieces<'a, W> {
    hash: &'a mut W,
    held: Vec<u8>,
}

impl<W: Writer> Pieces<'_, W> {
    fn flush(&mut self) {
        self.hash.write(&self.held);
        self.held.clear();
    }
}

impl<W: Writer> Writer for Pieces<'_, W> {
    fn write(&mut self, bytes: &[u8]) {
        if self.held.len() + bytes.len() > HELD {
            self.flush();
        }
        if bytes.len() > HELD {
            self.hash.write(bytes);
        } else {
            self.held.extend_from_slice(bytes);
        }
    }
}

/// The body without empty lines at its end and without the line break of the last line that is not empty.
fn without_empty_lines(mut body: &[u8], trim: fn(&[u8]) -> &[u8]) -> &[u8] {
    loop {
        let trimmed = trim(body);
        match trimmed.strip_suffix(b"\r\n") {
            Some(shorter) => body = shorter,
            None => return trimmed,
        }
    }
}

fn trim_blanks(mut line: &[u8]) -> &[u8] {
    while let Some((b' ' | b'\t', shorter)) = line.split_last() {
        line = shorter;
    }
    line
}

/// Removes white space before line breaks and reduces other white space to one space (RFC 6376 section 3.4.4).
fn relaxed_lines(mut body: &[u8], hash: &mut impl Writer) {
    while let Some(at) = memchr2(b' ', b'\t', body) {
        let (before, blanks) = body.split_at(at);
        hash.write(before);
        let end = blanks
            .iter()
            .position(|b| !matches!(b, b' ' | b'\t'))
            .unwrap_or(blanks.len());
        body = blanks.get(end..).unwrap_or_default();
        if !body.is_empty() && !body.starts_with(b"\r\n") {
            hash.write(b" ");
        }
    }
    hash.write(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    struct Text<'a>(&'a mut Vec<u8>);

    impl Writer for Text<'_> {
        fn write(&mut self, bytes: &[u8]) {
            self.0.extend_from_slice(bytes);
        }
    }

    fn canonical(relaxed: bool, body: &str) -> String {
        let mut text = Vec::new();
        let body = body.as_bytes();
        let canonical = if relaxed {
            Canonical::Relaxed(body)
        } else {
            Canonical::Simple(body)
        };
        canonical.write(&mut Text(&mut text));
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn examples_of_rfc_6376() {
        let body = " C \r\nD \t E\r\n\r\n\r\n";
        assert_eq!(canonical(true, body), " C\r\nD E\r\n");
        assert_eq!(canonical(false, body), " C \r\nD \t E\r\n");
        assert_eq!(canonical(true, ""), "");
        assert_eq!(canonical(true, "\r\n \r\n"), "");
        assert_eq!(canonical(false, ""), "\r\n");
        assert_eq!(canonical(false, "a"), "a\r\n");
        assert_eq!(
            canonical(true, "a\r\n \t\r\n"),
            "a\r\n",
            "a line of white space is empty"
        );
    }

    /// RFC 6376 section 3.4.4, line by line.
    fn by_line(body: &str) -> String {
        let mut lines: Vec<String> = body
            .split("\r\n")
            .map(|line| {
                let mut text = String::new();
                for c in line.trim_end_matches([' ', '\t']).chars() {
                    match c {
                        ' ' | '\t' if text.ends_with(' ') => {}
                        ' ' | '\t' => text.push(' '),
                        c => text.push(c),
                    }
                }
                text
            })
            .collect();
        while lines.last().is_some_and(String::is_empty) {
            lines.pop();
        }
        lines.into_iter().map(|line| line + "\r\n").collect()
    }

    proptest! {
        #[test]
        fn relaxed_is_what_the_rfc_says(body in "(a|b| |\t|\r\n){0,60}") {
            prop_assert_eq!(canonical(true, &body), by_line(&body));
        }
    }
}
