//! A walk over the packets of an OpenPGP message (RFC 9580 section 4.2), fed in pieces.

use super::sink::{NotEncrypted, Sink};

/// Public-key encrypted session key (RFC 9580 section 5.1).
const PKESK: u8 = 1;
/// Symmetric-key encrypted session key (RFC 9580 section 5.3).
const SKESK: u8 = 3;
/// Symmetrically encrypted and integrity protected data (RFC 9580 section 5.13).
const SEIPD: u8 = 18;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    /// At the first byte of a packet.
    Tag,
    /// At the first byte of a length in the current format.
    Length { tag: u8 },
    /// At the second byte of a two-byte length.
    SecondByte { tag: u8, high: u8 },
    /// In the bytes of a big-endian length.
    LengthBytes { tag: u8, left: u8, value: u64 },
    /// In a body, which is followed by another chunk of the same packet if `partial`.
    Body { tag: u8, left: u64, partial: bool },
    /// After the encrypted data; nothing may follow.
    End,
}

/// Accepts any number of session key packets, followed by one packet of encrypted data that ends with the message.
///
/// The versions of packets are ignored: PKESK and SKESK 6 with SEIPD 2 pass like 3, 4 and 1, and so do later ones.
#[derive(Debug)]
pub(crate) struct PacketWalk {
    state: State,
    /// Bytes of encrypted data so far.
    encrypted: u64,
}

impl PacketWalk {
    pub(crate) fn new() -> Self {
        Self {
            state: State::Tag,
            encrypted: 0,
        }
    }

    /// Whether the bytes are one complete encrypted message.
    pub(crate) fn is_complete(&self) -> bool {
        self.state == State::End && self.encrypted > 0
    }
}

impl Sink for PacketWalk {
    fn feed(&mut self, mut bytes: &[u8]) -> Result<(), NotEncrypted> {
        while let Some((&byte, rest)) = bytes.split_first() {
            self.state = match self.state {
                State::Tag => {
                    bytes = rest;
                    tag(byte)?
                }
                State::Length { tag } => {
                    bytes = rest;
                    length(tag, byte)?
                }
                State::SecondByte { tag, high } => {
                    bytes = rest;
                    body(tag, (u64::from(high) << 8) + u64::from(byte) + 192, false)
                }
                State::LengthBytes { tag, left, value } => {
                    bytes = rest;
                    let value = value << 8 | u64::from(byte);
                    match left {
                        0 | 1 => body(tag, value, false),
                        _ => State::LengthBytes {
                            tag,
                            left: left - 1,
                            value,
                        },
                    }
                }
                State::Body { tag, left, partial } => {
                    let here = usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()));
                    bytes = bytes.get(here..).unwrap_or_default();
                    if tag == SEIPD {
                        self.encrypted += here as u64;
                    }
                    body(tag, left - here as u64, partial)
                }
                State::End => return Err(NotEncrypted),
            };
        }
        Ok(())
    }
}

/// Parses the first byte of a packet (RFC 9580 section 4.2); its second bit selects the current or the legacy format.
fn tag(byte: u8) -> Result<State, NotEncrypted> {
    if byte & 0x80 == 0 {
        return Err(NotEncrypted);
    }
    let legacy = byte & 0x40 == 0;
    let tag = if legacy { byte >> 2 & 0x0f } else { byte & 0x3f };
    // A legacy tag has four bits, so encrypted data always comes in the current format.
    if !matches!(tag, PKESK | SKESK | SEIPD) {
        return Err(NotEncrypted);
    }
    if !legacy {
        return Ok(State::Length { tag });
    }
    let left = match byte & 0x03 {
        0 => 1,
        1 => 2,
        2 => 4,
        // Indeterminate length: the session key packet would include the rest of the message.
        _ => return Err(NotEncrypted),
    };
    Ok(State::LengthBytes { tag, left, value: 0 })
}

/// Parses the first byte of a length (RFC 9580 section 4.2.1).
fn length(tag: u8, byte: u8) -> Result<State, NotEncrypted> {
    match byte {
        0..=191 => Ok(body(tag, u64::from(byte), false)),
        192..=223 => Ok(State::SecondByte {
            tag,
            high: byte - 192,
        }),
        // Only data packets may have partial lengths (RFC 9580 section 4.2.1.4).
        224..=254 if tag == SEIPD => Ok(State::Body {
            tag,
            left: 1 << (byte & 0x1f),
            partial: true,
        }),
        224..=254 => Err(NotEncrypted),
        255 => Ok(State::LengthBytes {
            tag,
            left: 4,
            value: 0,
        }),
    }
}

/// The state before the last `left` bytes of a body.
fn body(tag: u8, left: u64, partial: bool) -> State {
    match (left, partial) {
        (1.., _) => State::Body { tag, left, partial },
        (0, true) => State::Length { tag },
        (0, false) if tag == SEIPD => State::End,
        (0, false) => State::Tag,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn passes(bytes: &[u8]) -> bool {
        let mut walk = PacketWalk::new();
        walk.feed(bytes).is_ok() && walk.is_complete()
    }

    #[test]
    fn session_keys_and_then_data_to_the_end() {
        assert!(passes(&[0xc1, 1, 3, 0xd2, 2, 1, 0]), "PKESK, SEIPD");
        assert!(
            passes(&[0xc3, 1, 6, 0xd2, 2, 2, 0]),
            "SKESK alone, as in SecureJoin v3"
        );
        assert!(passes(&[0xd2, 1, 2]), "no session key packet");
        assert!(
            passes(&[0x84, 1, 3, 0x8d, 0, 1, 4, 0xd2, 2, 1, 0]),
            "legacy headers"
        );
        assert!(!passes(&[0xc1, 1, 3]), "no data");
        assert!(!passes(&[0xd2, 2, 1]), "cut off");
        assert!(!passes(&[0xd2, 1, 1, 0xd2, 1, 1]), "data twice");
        assert!(!passes(&[0xd2, 1, 1, 0]), "bytes behind the data");
        assert!(!passes(&[0xd2, 0]), "no ciphertext");
        assert!(!passes(&[0xcb, 3, b't', 0, 0]), "literal data");
        assert!(!passes(&[0xc9, 1, 0]), "data without integrity protection");
        assert!(!passes(&[0x87, 1, 3]), "indeterminate length");
        assert!(!passes(&[0x41, 1]), "not a packet");
        assert!(!passes(&[]));
    }

    #[test]
    fn lengths_of_every_form() {
        let data = |length: &[u8], n: usize| [&[0xd2], length, &vec![7; n]].concat();
        assert!(passes(&data(&[191], 191)));
        assert!(passes(&data(&[192, 0], 192)));
        assert!(passes(&data(&[223, 255], 8383)));
        assert!(passes(&data(&[255, 0, 0, 0x20, 0xc0], 8384)));
        assert!(!passes(&data(&[255, 255, 255, 255, 255], 9)));
        let partial = [&data(&[0xe9], 512)[..], &[0xe0, 7], &[2, 7, 7]].concat();
        assert!(passes(&partial));
        assert!(
            passes(&[&data(&[0xe9], 512)[..], &[0]].concat()),
            "an empty last chunk"
        );
        assert!(!passes(&data(&[0xe9], 512)), "no last chunk");
        assert!(!passes(&[0xc1, 0xe0, 7, 0, 0xd2, 1, 1]), "a session key in parts");
    }

    proptest! {
        #[test]
        fn pieces_make_no_difference(bytes in proptest::collection::vec(any::<u8>(), 0..200), cut in 0usize..200) {
            let mut walk = PacketWalk::new();
            let (a, b) = bytes.split_at(cut.min(bytes.len()));
            let pieces = walk.feed(a).is_ok() && walk.feed(b).is_ok() && walk.is_complete();
            prop_assert_eq!(pieces, passes(&bytes));
        }
    }
}
