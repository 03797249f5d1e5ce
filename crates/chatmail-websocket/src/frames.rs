//! Frames of WebSocket (RFC 6455 section 5), decoded while they arrive.
//!
//! Libraries collect whole frames, and clients may send a mail of 50 MB in one. Here only headers and the payloads of
//! control frames are collected, at most 139 bytes, so frames of any length need no memory.

use std::io::Cursor;

use tungstenite::protocol::frame::coding::{CloseCode, Control, Data, OpCode};
use tungstenite::protocol::frame::{CloseFrame, Frame, FrameHeader};

/// Maximum payload of a control frame (RFC 6455 section 5.5).
const MAX_CONTROL: u64 = 125;
/// Maximum length of the header of a frame from a client.
const MAX_HEADER: usize = 14;

/// Why a session ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// The client has sent a close frame.
    Closed,
    /// The client has closed the connection.
    Gone,
    /// The client has sent text.
    Text,
    /// The client has violated the protocol.
    Violation,
    /// The mail server has closed the connection.
    Finished,
    /// Reading from or writing to the mail server failed.
    Failed,
    /// Nothing was sent for a long time, or the other side does not read.
    Idle,
    /// The service stops.
    Stopping,
}

impl End {
    /// The close frame that tells the client; none if the client is gone.
    pub(crate) fn frame(self) -> Option<Vec<u8>> {
        let code = match self {
            Self::Gone => return None,
            Self::Closed | Self::Finished => CloseCode::Normal,
            Self::Text => CloseCode::Unsupported,
            Self::Violation => CloseCode::Protocol,
            Self::Failed => CloseCode::Error,
            Self::Idle | Self::Stopping => CloseCode::Away,
        };
        let close = Frame::close(Some(CloseFrame {
            code,
            reason: "".into(),
        }));
        Some(encoded(close))
    }
}

fn encoded(frame: Frame) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(frame.len());
    // Writing to memory does not fail.
    let _ = frame.format(&mut bytes);
    bytes
}

/// The answer to a ping.
pub(crate) fn pong(payload: Vec<u8>) -> Vec<u8> {
    encoded(Frame::pong(payload))
}

/// A binary message with these bytes.
pub(crate) fn binary(bytes: &[u8]) -> Vec<u8> {
    let header = FrameHeader {
        opcode: OpCode::Data(Data::Binary),
        ..FrameHeader::default()
    };
    let length = bytes.len() as u64;
    let mut frame = Vec::with_capacity(header.len(length) + bytes.len());
    let _ = header.format(length, &mut frame);
    frame.extend_from_slice(bytes);
    frame
}

/// A frame whose payload arrives.
#[derive(Debug)]
struct Arriving {
    opcode: OpCode,
    last: bool,
    mask: [u8; 4],
    /// Bytes of the payload so far, for the position in the mask.
    read: u64,
    length: u64,
}

/// What the bytes of a client contain.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Decoded {
    /// Payload of binary messages.
    pub(crate) data: Vec<u8>,
    /// Payload of the last ping; it is enough to answer that one (RFC 6455 section 5.5.3).
    pub(crate) ping: Option<Vec<u8>>,
    /// Set if the session ends after the data; further bytes have been ignored.
    pub(crate) end: Option<End>,
}

/// The state of the client's side between two reads.
#[derive(Debug, Default)]
pub(crate) struct Frames {
    header: Vec<u8>,
    frame: Option<Arriving>,
    control: Vec<u8>,
    /// Whether a message has begun and not ended.
    in_message: bool,
}

impl Frames {
    /// Decodes the next bytes of a client.
    pub(crate) fn decode(&mut self, mut input: &[u8]) -> Decoded {
        let mut decoded = Decoded::default();
        while decoded.end.is_none() {
            let result = match self.frame.take() {
                Some(frame) => self.payload(frame, &mut input, &mut decoded),
                None => match input.split_first() {
                    None => break,
                    Some((byte, rest)) => {
                        input = rest;
                        self.header.push(*byte);
                        self.begin()
                    }
                },
            };
            if let Err(end) = result {
                decoded.end = Some(end);
            }
            if input.is_empty() && self.frame.as_ref().is_none_or(|frame| frame.read < frame.length) {
                break;
            }
        }
        decoded
    }

    /// Begins a frame if its header is complete.
    fn begin(&mut self) -> Result<(), End> {
        let parsed = FrameHeader::parse(&mut Cursor::new(&self.header)).map_err(|_| End::Violation)?;
        let Some((header, length)) = parsed else {
            return if self.header.len() < MAX_HEADER {
                Ok(())
            } else {
                Err(End::Violation)
            };
        };
        self.header.clear();
        if header.rsv1 || header.rsv2 || header.rsv3 || i64::try_from(length).is_err() {
            return Err(End::Violation);
        }
        match header.opcode {
            OpCode::Data(Data::Text) => return Err(End::Text),
            OpCode::Data(Data::Binary) if !self.in_message => self.in_message = true,
            OpCode::Data(Data::Continue) if self.in_message => {}
            OpCode::Control(_) if header.is_final && length <= MAX_CONTROL => {}
            OpCode::Data(_) | OpCode::Control(_) => return Err(End::Violation),
        }
        self.frame = Some(Arriving {
            opcode: header.opcode,
            last: header.is_final,
            // Clients must mask all frames (RFC 6455 section 5.1).
            mask: header.mask.ok_or(End::Violation)?,
            read: 0,
            length,
        });
        Ok(())
    }

    /// Takes the part of the payload that has arrived.
    fn payload(&mut self, mut frame: Arriving, input: &mut &[u8], decoded: &mut Decoded) -> Result<(), End> {
        let left = usize::try_from(frame.length - frame.read).unwrap_or(usize::MAX);
        let (part, rest) = input.split_at_checked(left).unwrap_or((input, &[]));
        *input = rest;
        let mask = frame.mask.iter().cycle().skip((frame.read % 4) as usize);
        let bytes = part.iter().zip(mask).map(|(byte, mask)| byte ^ mask);
        match frame.opcode {
            OpCode::Data(_) => decoded.data.extend(bytes),
            OpCode::Control(_) => self.control.extend(bytes),
        }
        frame.read += part.len() as u64;
        if frame.read < frame.length {
            self.frame = Some(frame);
            return Ok(());
        }
        match frame.opcode {
            OpCode::Data(_) => self.in_message = !frame.last,
            OpCode::Control(Control::Ping) => decoded.ping = Some(std::mem::take(&mut self.control)),
            OpCode::Control(Control::Close) => return Err(End::Closed),
            OpCode::Control(_) => self.control.clear(),
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// A frame of a client.
    fn frame(opcode: u8, last: bool, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader {
            is_final: last,
            opcode: opcode.into(),
            mask: Some([1, 2, 3, 4]),
            ..FrameHeader::default()
        };
        let mut bytes = Vec::new();
        header.format(payload.len() as u64, &mut bytes).unwrap();
        bytes.extend(
            payload
                .iter()
                .zip([1, 2, 3, 4].iter().cycle())
                .map(|(a, b)| a ^ b),
        );
        bytes
    }

    fn end(bytes: &[u8]) -> Option<End> {
        Frames::default().decode(bytes).end
    }

    #[test]
    fn only_binary_messages_of_clients_are_accepted() {
        assert_eq!(end(&frame(2, true, b"x")), None);
        assert_eq!(end(&frame(1, true, b"x")), Some(End::Text));
        assert_eq!(end(&frame(1, true, b"")), Some(End::Text));
        for reserved in [3, 7, 0xB, 0xF] {
            assert_eq!(
                end(&frame(reserved, true, b"")),
                Some(End::Violation),
                "{reserved}"
            );
        }
        // Not masked, with reserved bits, and longer than allowed.
        assert_eq!(end(&[0x82, 1, b'x']), Some(End::Violation));
        assert_eq!(end(&[0xC2, 0x81, 0, 0, 0, 0]), Some(End::Violation));
        let long = [&[0x82, 0xFF], &[0xFF; 8][..], &[0; 4]].concat();
        assert_eq!(end(&long), Some(End::Violation));
        let endless = [&[0x82, 0xFF, 0x7F], &[0xFF; 7][..], &[0; 4], b"abc"].concat();
        let decoded = Frames::default().decode(&endless);
        assert_eq!((decoded.end, decoded.data), (None, b"abc".to_vec()));
    }

    #[test]
    fn messages_are_whole() {
        assert_eq!(end(&frame(0, true, b"x")), Some(End::Violation));
        let twice = [frame(2, false, b"a"), frame(2, true, b"b")].concat();
        assert_eq!(end(&twice), Some(End::Violation));
        let after = [frame(2, false, b"a"), frame(0, true, b"b"), frame(0, true, b"c")].concat();
        let decoded = Frames::default().decode(&after);
        assert_eq!(
            (decoded.end, decoded.data),
            (Some(End::Violation), b"ab".to_vec())
        );
    }

    #[test]
    fn control_frames_are_small_and_whole() {
        assert_eq!(end(&frame(9, true, &[0; 125])), None);
        assert_eq!(end(&frame(9, true, &[0; 126])), Some(End::Violation));
        assert_eq!(end(&frame(9, false, b"")), Some(End::Violation));
        assert_eq!(end(&frame(8, true, b"")), Some(End::Closed));
        let between = [
            frame(2, false, b"a"),
            frame(9, true, b"one"),
            frame(10, true, b"unasked"),
            frame(9, true, b"two"),
            frame(0, true, b"b"),
            frame(8, true, b"\x03\xE8bye"),
            frame(2, true, b"ignored"),
        ];
        let decoded = Frames::default().decode(&between.concat());
        assert_eq!(decoded.data, b"ab");
        assert_eq!(decoded.ping.as_deref(), Some(&b"two"[..]));
        assert_eq!(decoded.end, Some(End::Closed));
    }

    #[test]
    fn close_codes() {
        let code = |end: End| {
            let frame = end.frame()?;
            assert_eq!(frame.len(), 4);
            Some(u16::from_be_bytes([frame[2], frame[3]]))
        };
        assert_eq!(code(End::Text), Some(1003));
        assert_eq!(code(End::Violation), Some(1002));
        assert_eq!(code(End::Finished), Some(1000));
        assert_eq!(code(End::Stopping), Some(1001));
        assert_eq!(code(End::Failed), Some(1011));
        assert_eq!(code(End::Gone), None);
    }

    proptest! {
        /// The result does not depend on how the bytes arrive.
        #[test]
        fn any_split(
            payloads in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..300), 1..6),
            piece in 1usize..40,
        ) {
            let mut bytes = Vec::new();
            for (number, payload) in payloads.iter().enumerate() {
                let opcode = if number == 0 { 2 } else { 0 };
                bytes.extend(frame(opcode, number + 1 == payloads.len(), payload));
                bytes.extend(frame(9, true, b"ping"));
            }
            let mut frames = Frames::default();
            let mut data = Vec::new();
            for part in bytes.chunks(piece) {
                let decoded = frames.decode(part);
                prop_assert_eq!(decoded.end, None);
                data.extend(decoded.data);
                prop_assert!(frames.header.len() < MAX_HEADER && frames.control.len() <= 125);
            }
            prop_assert_eq!(data, payloads.concat());
            prop_assert!(frames.frame.is_none() && !frames.in_message);
        }

        /// Nobody gets more out than in, and nothing panics.
        #[test]
        fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..600), piece in 1usize..40) {
            let mut frames = Frames::default();
            for part in bytes.chunks(piece) {
                let decoded = frames.decode(part);
                prop_assert!(decoded.data.len() <= part.len());
                if decoded.end.is_some() {
                    break;
                }
            }
        }
    }
}
