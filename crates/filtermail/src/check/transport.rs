//! Checks that a message reaches the other relay as it was signed.
//!
//! Postfix's `smtp(8)` and forwarding servers may fold long lines, encode bytes beyond ASCII for a server without
//! 8BITMIME (RFC 6152), and drop control characters or cut lines at them. Encrypted messages need none of these, so
//! they are rejected at submission, where the sender sees the reason.

use memchr::memrchr;

use crate::reply::Reply;

/// Maximum length of a line without its line break (RFC 5322 section 2.1.1).
const MAX_LINE: usize = 998;
/// Bytes that are searched for control characters at once.
const BLOCK: usize = 4096;

/// Checks a message, whose lines end with CRLF. An error is the reply that rejects it.
///
/// Compilers turn the loop over a block into vector instructions because it does not end early.
pub(super) fn arrives_as_signed(message: &[u8]) -> Result<(), Reply> {
    if !message.is_ascii() {
        return Err(Reply::NOT_ASCII);
    }
    let control = |found, b: &u8| found | (b.is_ascii_control() & !matches!(b, b'\t' | b'\r' | b'\n'));
    if message
        .chunks(BLOCK)
        .any(|block| block.iter().fold(false, control))
    {
        return Err(Reply::CONTROL_CHARACTER);
    }
    let mut rest = message;
    while rest.len() > MAX_LINE {
        // No line up to the last line break that is this near is too long.
        let near = rest.get(..MAX_LINE + 2).unwrap_or(rest);
        let end = memrchr(b'\n', near).ok_or(Reply::LINE_OF_MESSAGE_TOO_LONG)?;
        rest = rest.get(end + 1..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

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
        assert_eq!(
            check(&format!("{line}\r\n{line}x\r\n")),
            Err(Reply::LINE_OF_MESSAGE_TOO_LONG)
        );
        assert_eq!(check("a\r\n\u{e9}\r\n"), Err(Reply::NOT_ASCII));
        for control in ["\0", "\x07", "\x0b", "\x0c", "\x1b", "\x7f"] {
            let text = format!("a\r\nb{control}c\r\n");
            assert_eq!(check(&text), Err(Reply::CONTROL_CHARACTER));
            let text = format!("{}{text}", "a\r\n".repeat(BLOCK));
            assert_eq!(check(&text), Err(Reply::CONTROL_CHARACTER));
        }
    }

    proptest! {
        #[test]
        fn lines_are_measured_one_by_one(lengths in prop::collection::vec(0usize..1002, 0..8), open in 0usize..1002) {
            let mut message: String = lengths.iter().map(|length| "x".repeat(*length) + "\r\n").collect();
            message += &"x".repeat(open);
            let fits = lengths.iter().chain([&open]).all(|length| *length <= MAX_LINE);
            prop_assert_eq!(arrives_as_signed(message.as_bytes()).is_ok(), fits);
        }
    }
}
