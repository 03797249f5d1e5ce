//! Message data on the wire. Leading dots (RFC 5321 section 4.5.2) are removed in place while bytes arrive, and written
//! as separate pieces when the message is sent, so that each message is in memory only once.

use bytes::Bytes;
use memchr::{memchr2, memmem};

use crate::check::bounds::MAX_HEADER;

/// Free space offered to each read.
const READ_SIZE: usize = 64 * 1024;

/// Message data while it is received.
#[derive(Debug)]
pub struct MessageData {
    /// The message so far (`clean` bytes), followed by bytes that are not processed yet.
    bytes: Vec<u8>,
    clean: usize,
    max: usize,
    line_start: bool,
    /// Whether no byte of the current line is kept yet.
    empty_line: bool,
    in_header: bool,
    bare_line_break: bool,
    /// Why the rest of the message is dropped while it is received.
    dropped: Option<Received>,
    done: bool,
}

/// How message data ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Received {
    /// The whole message.
    Message(Bytes),
    /// The message is larger than the relay accepts; it was dropped while it was received.
    TooLarge,
    /// The header does not end within [`MAX_HEADER`]; the message was dropped while it was received.
    HeaderTooLarge,
    /// The message contains a CR or LF on its own. Some servers take it for the end of a line, so they could see the
    /// end of the message, and commands, where we see text.
    BareLineBreak,
}

impl MessageData {
    /// Receives at most `max` bytes; `expected` is the size that the client declared.
    pub fn new(max: usize, expected: usize) -> Self {
        Self {
            bytes: Vec::with_capacity(expected.min(max).saturating_add(READ_SIZE)),
            clean: 0,
            max,
            line_start: true,
            empty_line: true,
            in_header: true,
            bare_line_break: false,
            dropped: None,
            done: false,
        }
    }

    /// The buffer to append received bytes to; [`Self::advance`] processes them.
    pub fn buffer(&mut self) -> &mut Vec<u8> {
        self.bytes.reserve(READ_SIZE);
        &mut self.bytes
    }

    /// Number of bytes in memory.
    pub fn held(&self) -> usize {
        self.bytes.len()
    }

    /// Processes the appended bytes; true once the final dot has arrived.
    pub fn advance(&mut self) -> bool {
        let mut at = self.clean;
        while !self.done {
            if self.line_start {
                match self.bytes.get(at..) {
                    Some([b'.', b'\r', b'\n', ..]) => {
                        at += 3;
                        self.done = true;
                        break;
                    }
                    // Not yet known whether this is the final dot.
                    None | Some([] | [b'.'] | [b'.', b'\r']) => break,
                    Some([b'.', ..]) => at += 1,
                    Some(_) => {}
                }
                self.line_start = false;
                self.empty_line = true;
            }
            let Some(text) = self.bytes.get(at..) else { break };
            let end = match memchr2(b'\r', b'\n', text) {
                None => text.len(),
                Some(found) => match text.get(found..) {
                    Some([b'\r', b'\n', ..]) => {
                        self.line_start = true;
                        self.in_header &= found > 0 || !self.empty_line;
                        found + 2
                    }
                    // Not yet known what follows.
                    Some([b'\r']) => found,
                    _ => {
                        self.bare_line_break = true;
                        found + 1
                    }
                },
            };
            if end == 0 {
                break;
            }
            self.keep(at, end);
            self.empty_line = false;
            at += end;
        }
        // Close the gap that removed dots have left, so that new bytes follow old ones.
        if at > self.clean {
            let left = self.bytes.len() - at;
            self.bytes.copy_within(at.., self.clean);
            self.bytes.truncate(self.clean + left);
        }
        if self.dropped.is_some() {
            self.bytes.shrink_to(READ_SIZE);
        }
        self.done
    }

    /// Makes `length` bytes at `at` part of the message.
    fn keep(&mut self, at: usize, length: usize) {
        let whole = self.clean + length;
        if self.dropped.is_none() {
            if whole > self.max {
                self.dropped = Some(Received::TooLarge);
            } else if self.in_header && whole > MAX_HEADER {
                self.dropped = Some(Received::HeaderTooLarge);
            }
        }
        if self.dropped.is_some() {
            self.clean = 0;
            return;
        }
        if at > self.clean {
            self.bytes.copy_within(at..at + length, self.clean);
        }
        self.clean += length;
    }

    /// The message, and the bytes that the client sent after it.
    pub fn finish(mut self) -> (Received, Vec<u8>) {
        let rest = self.bytes.split_off(self.clean);
        let received = if let Some(dropped) = self.dropped {
            dropped
        } else if self.bare_line_break {
            Received::BareLineBreak
        } else {
            Received::Message(self.bytes.into())
        };
        (received, rest)
    }
}

/// A message as sent on the wire with its final dot: pieces of the message with dots between them.
pub fn stuffed(message: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut stuffing = Stuffing::default();
    let pieces = stuffing.piece(message);
    pieces.chain(std::iter::once(stuffing.end()))
}

/// Doubles leading dots of a message that arrives in parts.
#[derive(Debug)]
pub struct Stuffing {
    /// The last two bytes so far. Initially CRLF, because the message begins with a new line.
    last: [u8; 2],
}

impl Default for Stuffing {
    fn default() -> Self {
        Self { last: *b"\r\n" }
    }
}

impl Stuffing {
    /// The next part as sent on the wire: its pieces and the dots between them.
    pub fn piece<'a>(&mut self, part: &'a [u8]) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let mut first = (self.last[1] == b'\n' && part.starts_with(b".")).then_some(0);
        match part {
            [] => {}
            [one] => self.last = [self.last[1], *one],
            [.., before, last] => self.last = [*before, *last],
        }
        let mut dots = memmem::find_iter(part, b"\n.").map(|at| at + 1);
        let mut from = 0;
        let mut ended = false;
        std::iter::from_fn(move || {
            if ended {
                return None;
            }
            Some(match first.take().or_else(|| dots.next()) {
                Some(dot) => {
                    let piece = part.get(from..dot).unwrap_or_default();
                    from = dot;
                    [piece, b"."]
                }
                None => {
                    ended = true;
                    [part.get(from..).unwrap_or_default(), b""]
                }
            })
        })
        .flatten()
        .filter(|piece| !piece.is_empty())
    }

    /// The bytes that end the message after its last part.
    pub fn end(&self) -> &'static [u8] {
        if self.last == *b"\r\n" {
            b".\r\n"
        } else {
            b"\r\n.\r\n"
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn receive(wire: &[u8], piece: usize, max: usize) -> Option<(Received, Vec<u8>)> {
        let mut data = MessageData::new(max, 0);
        let mut done = false;
        for piece in wire.chunks(piece) {
            data.buffer().extend_from_slice(piece);
            done = data.advance();
        }
        done.then(|| data.finish())
    }

    fn whole(wire: &str) -> Option<Received> {
        receive(wire.as_bytes(), 3, 1000).map(|(received, _)| received)
    }

    #[test]
    fn only_crlf_dot_crlf_ends_a_message() {
        let message = |text: &str| Some(Received::Message(text.to_owned().into()));
        assert_eq!(whole(".\r\n"), message(""));
        assert_eq!(whole("a\r\n..\r\n.b\r\n.\r\n"), message("a\r\n.\r\nb\r\n"));
        for open in [
            "a\n.\n", "a\r\n.\n", "a\n.\r\n", "a\r.\r", "a\r\n.\r", "a\r\n", "a.\r\n", ".\r", "",
        ] {
            assert_eq!(whole(open), None, "{open:?}");
        }
    }

    #[test]
    fn line_breaks_of_other_forms_are_noticed() {
        for text in ["a\nb", "a\rb", "\n", "\r", "a\n.", ".\rb", "a\r\r\n"] {
            assert_eq!(
                whole(&format!("{text}\r\n.\r\n")),
                Some(Received::BareLineBreak),
                "{text:?}"
            );
        }
    }

    #[test]
    fn what_is_too_large_is_dropped_as_it_comes() {
        let wire = format!("{}.\r\nQUIT\r\n", "0123456789\r\n".repeat(100_000));
        let mut data = MessageData::new(5000, usize::MAX);
        let mut held = 0;
        for piece in wire.as_bytes().chunks(999) {
            data.buffer().extend_from_slice(piece);
            data.advance();
            held = held.max(data.held());
        }
        assert!(held < 10_000, "{held}");
        assert_eq!(data.finish(), (Received::TooLarge, b"QUIT\r\n".to_vec()));
        assert_eq!(
            receive(b"01234567\r\n.\r\n", 4, 10).unwrap().0,
            Received::Message("01234567\r\n".into())
        );
        assert_eq!(
            receive(b"012345678\r\n.\r\n", 4, 10).unwrap().0,
            Received::TooLarge
        );
    }

    #[test]
    fn a_header_without_end_is_dropped_as_it_comes() {
        let line = format!("A: {}\r\n", "x".repeat(95));
        let header = line.repeat(MAX_HEADER / line.len());
        let receive = |wire: String| {
            let mut data = MessageData::new(usize::MAX, 0);
            let mut held = 0;
            for piece in wire.as_bytes().chunks(997) {
                data.buffer().extend_from_slice(piece);
                data.advance();
                held = held.max(data.held());
            }
            (data.finish().0, held)
        };
        let (received, held) = receive(format!("{}.\r\n", header.repeat(10)));
        assert_eq!(received, Received::HeaderTooLarge);
        assert!(held <= MAX_HEADER + 1000, "{held}");
        let message = format!("{header}\r\n{}", "body\r\n".repeat(100_000));
        assert_eq!(
            receive(format!("{message}.\r\n")).0,
            Received::Message(message.into())
        );
    }

    proptest! {
        #[test]
        fn dots_survive_a_round_trip_in_pieces(
            message in "((a|\\.|\r\n){0,40}\r\n)?",
            piece in 1usize..20,
            rest in "(\\.|QUIT|\r\n){0,3}",
        ) {
            let mut wire = stuffed(message.as_bytes()).collect::<Vec<_>>().concat();
            wire.extend_from_slice(rest.as_bytes());
            let (received, left) = receive(&wire, piece, 1000).unwrap();
            prop_assert_eq!(received, Received::Message(message.into()));
            prop_assert_eq!(left, rest.into_bytes());
        }

        #[test]
        fn parts_are_stuffed_as_the_whole_is(message in "(a|\\.|\r|\n|\r\n){0,40}", size in 1usize..9) {
            let mut stuffing = Stuffing::default();
            let mut wire = Vec::new();
            for part in message.as_bytes().chunks(size) {
                wire.extend(stuffing.piece(part).flatten());
            }
            wire.extend_from_slice(stuffing.end());
            prop_assert_eq!(wire, stuffed(message.as_bytes()).collect::<Vec<_>>().concat());
        }

        #[test]
        fn pieces_make_no_difference(wire in "(a|\\.|\r|\n|\r\n){0,40}\r\n.\r\n", piece in 1usize..9) {
            prop_assert_eq!(receive(wire.as_bytes(), piece, 30), receive(wire.as_bytes(), wire.len(), 30));
        }
    }
}
