//! ASCII armor around an encrypted message (RFC 9580 section 6), checked in pieces.

use memchr::memchr;

use super::Direction;
use super::encoding::Base64;
use super::openpgp::PacketWalk;
use super::sink::{NotEncrypted, Sink};

/// Line that begins the armor.
pub(super) const BEGIN: &[u8] = b"-----BEGIN PGP MESSAGE-----";
/// Line that ends the armor.
pub(super) const END: &[u8] = b"-----END PGP MESSAGE-----";

/// Maximum length of a line other than data.
const MAX_MARKER: usize = 80;

/// Accepts one armored, encrypted OpenPGP message and nothing else.
///
/// Older programs write a `Version:` line. It is free text, so submitted mail must not have it. The checksum is
/// ignored, as RFC 9580 section 6.1 requires.
pub(super) struct Armor {
    direction: Direction,
    phase: Phase,
    /// The beginning of a line other than data.
    marker: Vec<u8>,
    /// Kind of the current line, once it is known.
    line: Line,
    data: Base64<PacketWalk>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    /// Before the first line.
    Begin,
    /// After the first line; a version may follow.
    Version,
    /// In the data, or in empty lines before it.
    Data,
    /// After the checksum.
    Checksum,
    /// After the last line.
    End,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Line {
    /// No byte of the line was fed yet.
    Fresh,
    /// Base64, passed to the decoder as it is fed.
    Data,
    /// Anything else, kept until the line ends.
    Marker,
    /// After the CR of the line.
    Ending,
}

impl Armor {
    /// Starts before the first line.
    pub(super) fn new(direction: Direction) -> Self {
        Self {
            direction,
            phase: Phase::Begin,
            marker: Vec::new(),
            line: Line::Fresh,
            data: Base64::new(PacketWalk::new()),
        }
    }

    /// Whether the armor is complete. The line break after the last line is optional.
    pub(super) fn ends_here(mut self) -> bool {
        if self.line == Line::Marker && self.end_of_line().is_err() {
            return false;
        }
        let whole_lines = matches!(self.line, Line::Fresh | Line::Marker);
        whole_lines && self.phase == Phase::End && self.data.finish().is_ok_and(|walk| walk.is_complete())
    }

    /// Part of a line, without its line break.
    fn text(&mut self, text: &[u8]) -> Result<(), NotEncrypted> {
        let Some(first) = text.first() else {
            return Ok(());
        };
        if self.line == Line::Fresh {
            let data = matches!(self.phase, Phase::Version | Phase::Data) && is_base64(*first);
            // In base64, no packet begins with `V`.
            let version =
                self.phase == Phase::Version && *first == b'V' && self.direction == Direction::Incoming;
            self.line = if data && !version {
                Line::Data
            } else {
                Line::Marker
            };
            if self.line == Line::Data {
                self.phase = Phase::Data;
            }
        }
        match self.line {
            Line::Data => self.data.chars(text),
            Line::Marker if self.marker.len() + text.len() <= MAX_MARKER => {
                self.marker.extend_from_slice(text);
                Ok(())
            }
            Line::Marker | Line::Fresh | Line::Ending => Err(NotEncrypted),
        }
    }

    fn end_of_line(&mut self) -> Result<(), NotEncrypted> {
        let line = std::mem::take(&mut self.marker);
        if self.line == Line::Data {
            return Ok(());
        }
        self.phase = match (self.phase, line.as_slice()) {
            (Phase::Begin, BEGIN) => Phase::Version,
            (Phase::Version | Phase::Data, []) => Phase::Data,
            (Phase::End, []) => Phase::End,
            (Phase::Version | Phase::Data | Phase::Checksum, END) => Phase::End,
            (Phase::Version, [b'V', b'e', b'r', b's', b'i', b'o', b'n', b':', b' ', version @ ..])
                if self.direction == Direction::Incoming && version.iter().all(is_printable) =>
            {
                Phase::Data
            }
            // Padding may begin a line if the lengths of lines are odd.
            (Phase::Data, [b'='] | [b'=', b'=']) => {
                self.data.chars(&line)?;
                Phase::Data
            }
            (Phase::Data, [b'=', checksum @ ..])
                if checksum.len() == 4 && checksum.iter().all(|c| is_base64(*c)) =>
            {
                Phase::Checksum
            }
            _ => return Err(NotEncrypted),
        };
        Ok(())
    }
}

impl Sink for Armor {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NotEncrypted> {
        while let Some(first) = bytes.first() {
            if self.line == Line::Ending {
                if *first != b'\n' {
                    return Err(NotEncrypted);
                }
                self.line = Line::Fresh;
                bytes = bytes.get(1..).unwrap_or_default();
                continue;
            }
            let end = memchr(b'\r', bytes);
            let (text, rest) = bytes
                .split_at_checked(end.unwrap_or(bytes.len()))
                .ok_or(NotEncrypted)?;
            self.text(text)?;
            bytes = rest;
            if end.is_some() {
                self.end_of_line()?;
                self.line = Line::Ending;
                bytes = bytes.get(1..).unwrap_or_default();
            }
        }
        Ok(())
    }
}

fn is_printable(c: &u8) -> bool {
    *c == b' ' || c.is_ascii_graphic()
}

fn is_base64(c: u8) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, b'+' | b'/')
}

#[cfg(test)]
mod tests {
    use super::*;
    use base64::Engine as _;
    use base64::engine::general_purpose::STANDARD;
    use proptest::prelude::*;

    /// Whether the text passes, which does not depend on the pieces in which it is fed.
    fn is_encrypted_armor(text: &[u8], direction: Direction) -> bool {
        let in_pieces = |piece| {
            let mut armor = Armor::new(direction);
            text.chunks(piece).all(|piece| armor.feed(piece).is_ok()) && armor.ends_here()
        };
        let whole = in_pieces(text.len().max(1));
        for piece in [1, 7, 4096] {
            assert_eq!(in_pieces(piece), whole, "in pieces of {piece}");
        }
        whole
    }

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
        assert!(is_encrypted_armor(
            good.strip_suffix(b"\r\n").unwrap(),
            Direction::Incoming
        ));
        let bare: Vec<u8> = good.iter().copied().filter(|b| *b != b'\r').collect();
        assert!(!is_encrypted_armor(&bare, Direction::Incoming));
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
            let text = [BEGIN, b"\r\n", &bytes, b"\r\n", END].concat();
            is_encrypted_armor(&text, Direction::Incoming);
        }
    }
}
