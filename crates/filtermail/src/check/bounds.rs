//! Limits on the header of a message. They are checked before anything parses the header, so that a sender cannot make
//! a parser, ours or a library's, use much time or memory.
//!
//! Mail programs stay far below: a header of 8 KiB with two signatures of 40 names is already long.

use memchr::{memchr, memchr_iter, memmem};

use crate::reply::Reply;

/// Maximum size of the header in bytes.
pub const MAX_HEADER: usize = 256 * 1024;
/// Maximum size of a field in bytes. Postfix truncates longer fields (`header_size_limit`), which breaks signatures.
const MAX_FIELD: usize = 102_400;
/// Maximum number of fields.
const MAX_FIELDS: usize = 1000;
/// Maximum number of `DKIM-Signature` fields.
const MAX_SIGNATURES: usize = 20;
/// Maximum size of a `DKIM-Signature` field in bytes: a signature and the names of the signed fields.
const MAX_SIGNATURE: usize = 16 * 1024;
/// Maximum number of names in `h=` of a signature, counted by the colons in the whole field.
const MAX_NAMES: usize = 100;

/// Checks the header of a message, malformed or not. An error is the reply that rejects the message.
pub fn check(message: &[u8]) -> Result<(), Reply> {
    // Search no further than the maximum size of a header.
    let limit = message.get(..=MAX_HEADER).unwrap_or(message);
    let end = if message.starts_with(b"\r\n") {
        0
    } else {
        memmem::find(limit, b"\r\n\r\n").map_or(message.len(), |at| at + 2)
    };
    if end > MAX_HEADER {
        return Err(Reply::HEADER_TOO_LARGE);
    }
    let mut rest = message.get(..end).unwrap_or_default();
    let (mut fields, mut signatures) = (0, 0);
    while !rest.is_empty() {
        let (field, later) = rest.split_at(field_end(rest));
        rest = later;
        fields += 1;
        if field.len() > MAX_FIELD {
            return Err(Reply::FIELD_TOO_LARGE);
        }
        if fields > MAX_FIELDS {
            return Err(Reply::TOO_MANY_FIELDS);
        }
        if is_signature(field) {
            signatures += 1;
            // One colon follows the name of the field, and the others separate the names.
            if field.len() > MAX_SIGNATURE || memchr_iter(b':', field).count() > MAX_NAMES {
                return Err(Reply::SIGNATURE_TOO_LARGE);
            }
            if signatures > MAX_SIGNATURES {
                return Err(Reply::TOO_MANY_SIGNATURES);
            }
        }
    }
    Ok(())
}

/// The end of the first field, which continues while lines begin with white space.
fn field_end(header: &[u8]) -> usize {
    let mut end = 0;
    loop {
        let line = header.get(end..).unwrap_or_default();
        end += memchr(b'\n', line).map_or(line.len(), |at| at + 1);
        if !matches!(header.get(end), Some(b' ' | b'\t')) {
            return end;
        }
    }
}

/// Whether a parser could take the field for a signature.
fn is_signature(field: &[u8]) -> bool {
    const NAME: &[u8] = b"DKIM-Signature";
    field
        .get(..NAME.len())
        .is_some_and(|name| name.eq_ignore_ascii_case(NAME))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(fields: &[String]) -> Result<(), Reply> {
        check(format!("{}\r\nbody", fields.concat()).as_bytes())
    }

    fn signature(names: usize) -> String {
        format!("DKIM-Signature: v=1; h={}; b=x\r\n", vec!["a"; names].join(":"))
    }

    #[test]
    fn each_bound_has_its_reply() {
        let x = |n| "x".repeat(n);
        assert_eq!(header(&[]), Ok(()));
        assert_eq!(header(&vec!["A: b\r\n".to_owned(); MAX_FIELDS]), Ok(()));
        assert_eq!(
            header(&vec!["A: b\r\n".to_owned(); MAX_FIELDS + 1]),
            Err(Reply::TOO_MANY_FIELDS)
        );
        let folded = |n| format!("A: {}\r\n", vec![x(70); n].join("\r\n "));
        assert_eq!(header(&[folded(1300)]), Ok(()));
        assert_eq!(header(&[folded(1500)]), Err(Reply::FIELD_TOO_LARGE));
        assert_eq!(header(&[signature(MAX_NAMES)]), Ok(()));
        assert_eq!(
            header(&[signature(MAX_NAMES + 1)]),
            Err(Reply::SIGNATURE_TOO_LARGE)
        );
        assert_eq!(
            header(&[format!("dkim-signature : z={}\r\n", x(MAX_SIGNATURE))]),
            Err(Reply::SIGNATURE_TOO_LARGE)
        );
        assert_eq!(header(&vec![signature(2); MAX_SIGNATURES]), Ok(()));
        assert_eq!(
            header(&vec![signature(2); MAX_SIGNATURES + 1]),
            Err(Reply::TOO_MANY_SIGNATURES)
        );
        assert_eq!(
            header(&vec![format!("A: {}\r\n", x(90_000)); 3]),
            Err(Reply::HEADER_TOO_LARGE)
        );
    }

    #[test]
    fn a_body_of_any_size_is_no_header() {
        let message = format!("A: b\r\n\r\n{}", "DKIM-Signature: x\r\n".repeat(100_000));
        assert_eq!(check(message.as_bytes()), Ok(()));
        assert_eq!(check(format!("\r\n{message}").as_bytes()), Ok(()));
        let headless = "x".repeat(MAX_HEADER + 1);
        assert_eq!(check(headless.as_bytes()), Err(Reply::HEADER_TOO_LARGE));
        // An empty line just after the limit.
        let long = format!(
            "{}\r\n\r\n",
            vec![format!("A: {}\r\n", "x".repeat(1000)); 262]
                .concat()
                .trim_end()
        );
        assert!(long.len() > MAX_HEADER);
        assert_eq!(check(long.as_bytes()), Err(Reply::HEADER_TOO_LARGE));
    }
}
