//! ASCII armor around an encrypted message (RFC 9580 section 6), decoded in pieces of fixed size.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use memchr::memchr;

use super::Direction;
use super::openpgp::{NotEncrypted, PacketWalk};

const BEGIN: &[u8] = b"-----BEGIN PGP MESSAGE-----\r\n";
const END: &[u8] = b"-----END PGP MESSAGE-----";

/// Characters decoded at once: whole quanta, and small enough to stay in the first-level cache with their output.
const CHARS: usize = 4096;

/// Whether this is one armored, encrypted OpenPGP message and nothing else.
///
/// A `Version:` line is what older programs write; it is a line of free text, so our own users may not send it.
/// The checksum is passed over, as RFC 9580 section 6.1 asks.
pub fn is_encrypted_armor(mut body: &[u8], direction: Direction) -> bool {
    while let Some(shorter) = body.strip_suffix(b"\r\n") {
        body = shorter;
    }
    let Some(body) = body.strip_prefix(BEGIN).and_then(|rest| rest.strip_suffix(END)) else {
        return false;
    };
    // The end marker begins a line.
    let Some(mut body) = body.strip_suffix(b"\r\n") else {
        return false;
    };
    if body.starts_with(b"Version: ") {
        match (direction, memchr(b'\n', body)) {
            (Direction::Incoming, Some(end)) => body = body.get(end + 1..).unwrap_or_default(),
            _ => return false,
        }
    }
    while let Some(rest) = body.strip_prefix(b"\r\n") {
        body = rest;
    }
    let mut decoder = Decoder::new();
    decoder.lines(body).is_ok() && decoder.finish()
}

struct Decoder {
    walk: PacketWalk,
    chars: [u8; CHARS],
    filled: usize,
    /// Padding was seen: no data may follow.
    padded: bool,
}

impl Decoder {
    fn new() -> Self {
        Self {
            walk: PacketWalk::new(),
            chars: [0; CHARS],
            filled: 0,
            padded: false,
        }
    }

    fn lines(&mut self, mut body: &[u8]) -> Result<(), NotEncrypted> {
        while !body.is_empty() {
            let (line, rest) = match memchr(b'\r', body) {
                Some(end) => {
                    let (line, rest) = body.split_at_checked(end).ok_or(NotEncrypted)?;
                    (line, rest.strip_prefix(b"\r\n").ok_or(NotEncrypted)?)
                }
                None => (body, &[][..]),
            };
            // Padding may begin a line as well, where lines are of odd lengths.
            if line.first() == Some(&b'=') && line.iter().any(|c| *c != b'=') {
                // The checksum: four characters on the last line.
                let checksum = line.len() == 5 && line.iter().skip(1).all(|c| is_base64(*c));
                return if checksum && rest.is_empty() {
                    Ok(())
                } else {
                    Err(NotEncrypted)
                };
            }
            self.chars(line)?;
            body = rest;
        }
        Ok(())
    }

    fn chars(&mut self, mut line: &[u8]) -> Result<(), NotEncrypted> {
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
        self.walk.feed(bytes.get(..decoded).ok_or(NotEncrypted)?)
    }

    fn finish(&mut self) -> bool {
        (self.filled == 0 || self.decode().is_ok()) && self.walk.is_complete()
    }
}

fn is_base64(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn seipd(length: u32) -> Vec<u8> {
        let mut message = vec![0xc1, 2, 3, 0, 0xd2, 255];
        message.extend_from_slice(&length.to_be_bytes());
        message.resize(message.len() + length as usize, 0x5a);
        message
    }

    fn armored(message: &[u8], width: usize, head: &str, tail: &str) -> Vec<u8> {
        let mut text = format!("-----BEGIN PGP MESSAGE-----\r\n{head}\r\n");
        for line in STANDARD.encode(message).as_bytes().chunks(width) {
            text.push_str(std::str::from_utf8(line).unwrap());
            text.push_str("\r\n");
        }
        text.push_str(tail);
        text.push_str("-----END PGP MESSAGE-----\r\n");
        text.into_bytes()
    }

    #[test]
    fn a_version_line_passes_only_when_it_arrives() {
        let text = armored(&seipd(90), 64, "Version: GnuPG v2\r\n", "");
        assert!(is_encrypted_armor(&text, Direction::Incoming));
        assert!(!is_encrypted_armor(&text, Direction::Outgoing));
        for head in ["Comment: hello\r\n", "Version: x\r\nComment: hello\r\n"] {
            assert!(!is_encrypted_armor(
                &armored(&seipd(90), 64, head, ""),
                Direction::Incoming
            ));
        }
    }

    #[test]
    fn only_a_checksum_may_follow_the_data() {
        let with = |tail| is_encrypted_armor(&armored(&seipd(91), 64, "", tail), Direction::Outgoing);
        assert!(with(""));
        assert!(with("=abc/\r\n"));
        assert!(!with("=abc\r\n"));
        assert!(!with("=abc/\r\n=abc/\r\n"));
        assert!(!with("hello\r\n"));
        assert!(!with("AAAA\r\n"), "data behind padding or behind the last packet");
        assert!(!with(
            "-----END PGP MESSAGE-----\r\nhello\r\n-----BEGIN PGP MESSAGE-----\r\n"
        ));
    }

    #[test]
    fn padding_may_begin_a_line() {
        for width in 1..20 {
            for length in 90..93 {
                let text = armored(&seipd(length), width, "", "=abc/\r\n");
                assert!(
                    is_encrypted_armor(&text, Direction::Outgoing),
                    "{length} in lines of {width}"
                );
            }
        }
    }

    #[test]
    fn text_around_the_armor_never_passes() {
        let good = armored(&seipd(90), 64, "", "");
        assert!(is_encrypted_armor(
            &[&good[..], b"\r\n\r\n"].concat(),
            Direction::Incoming
        ));
        assert!(!is_encrypted_armor(
            &[&good[..], b"hello\r\n"].concat(),
            Direction::Incoming
        ));
        assert!(!is_encrypted_armor(
            &[b"hello\r\n", &good[..]].concat(),
            Direction::Incoming
        ));
        assert!(!is_encrypted_armor(b"", Direction::Incoming));
        assert!(!is_encrypted_armor(&[BEGIN, END].concat(), Direction::Incoming));
    }

    proptest! {
        #[test]
        fn any_length_and_line_width(length in 1u32..20_000, width in 1usize..5000) {
            prop_assert!(is_encrypted_armor(&armored(&seipd(length), width, "", "=abcd\r\n"), Direction::Outgoing));
        }

        #[test]
        fn one_packet_byte_less_or_more_never_passes(length in 2u32..9000) {
            let message = seipd(length);
            let cut = &message[..message.len() - 1];
            prop_assert!(!is_encrypted_armor(&armored(cut, 64, "", ""), Direction::Incoming));
            let longer = [&message[..], b"x"].concat();
            prop_assert!(!is_encrypted_armor(&armored(&longer, 64, "", ""), Direction::Incoming));
        }

        #[test]
        fn never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            let text = [BEGIN, &bytes, b"\r\n", END].concat();
            is_encrypted_armor(&text, Direction::Incoming);
        }
    }
}
