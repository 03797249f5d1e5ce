//! Checks that a message reaches the other relay as it was signed.
//!
//! Postfix's `smtp(8)` and forwarding servers may fold long lines, encode bytes beyond ASCII for a server without
//! 8BITMIME (RFC 6152), and drop control characters or cut lines at them. Encrypted messages need none of these, so
//! they are rejected at submission, where the sender sees the reason.

use memchr::memchr;

use crate::reply::Reply;

/// Maximum length of a line without its line break (RFC 5322 section 2.1.1).
const MAX_LINE: usize = 998;

/// Checks a message, whose lines end with CRLF. An error is the reply that rejects it.
pub(super) fn arrives_as_signed(message: &[u8]) -> Result<(), Reply> {
    if !message.is_ascii() {
        return Err(Reply::NOT_ASCII);
    }
    let mut rest = message;
    while !rest.is_empty() {
        let end = memchr(b'\n', rest).map_or(rest.len(), |at| at + 1);
        let (line, later) = rest.split_at_checked(end).unwrap_or((rest, &[]));
        let text = line.strip_suffix(b"\r\n").unwrap_or(line);
        if text.len() > MAX_LINE {
            return Err(Reply::LINE_OF_MESSAGE_TOO_LONG);
        }
        if text.iter().any(|b| b.is_ascii_control() && *b != b'\t') {
            return Err(Reply::CONTROL_CHARACTER);
        }
        rest = later;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_on_the_way_change_is_refused() {
        let check = |text: &str| arrives_as_signed(text.as_bytes());
        let line = "x".repeat(MAX_LINE);
        assert_eq!(check(""), Ok(()));
        assert_eq!(check("no line break"), Ok(()));
        assert_eq!(
            check(&format!("{line}\r\n\t{}\r\n \r\n", "x".repeat(997))),
            Ok(())
        );
        assert_eq!(
            check(&format!("a\r\n{line}x\r\n")),
            Err(Reply::LINE_OF_MESSAGE_TOO_LONG)
        );
        assert_eq!(check(&format!("{line}x")), Err(Reply::LINE_OF_MESSAGE_TOO_LONG));
        assert_eq!(check("a\r\n\u{e9}\r\n"), Err(Reply::NOT_ASCII));
        for control in ["\0", "\x07", "\x0b", "\x0c", "\x1b", "\x7f"] {
            assert_eq!(
                check(&format!("a\r\nb{control}c\r\n")),
                Err(Reply::CONTROL_CHARACTER)
            );
        }
    }
}
