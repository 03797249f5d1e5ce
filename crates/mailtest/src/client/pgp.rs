//! Messages that look like encrypted messages from Delta Chat, with random bytes in place of the cipher text.
//!
//! The relay cannot tell the difference: it has no key, and checks only the MIME structure, the armor and the OpenPGP
//! packet headers (RFC 9580).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::RngCore as _;

use super::message::{Message, boundary};

/// Packet type "public key encrypted session key".
const PKESK: u8 = 1;
/// Packet type "symmetrically encrypted and integrity protected data".
const SEIPD: u8 = 18;
/// Base64 characters per line of armor.
const ARMOR_LINE: usize = 64;

/// Creates a message for one recipient and the sender, with `size` bytes of cipher text.
pub fn encrypted(from: &str, size: usize) -> Message {
    let boundary = boundary();
    let armor = armor(&cipher_text(size));
    let body = format!(
        "--{boundary}\r\n\
         Content-Type: application/pgp-encrypted; charset=\"utf-8\"\r\n\
         Content-Description: PGP/MIME version identification\r\n\
         Content-Transfer-Encoding: 7bit\r\n\
         \r\n\
         Version: 1\r\n\
         \r\n\
         --{boundary}\r\n\
         Content-Type: application/octet-stream; name=\"encrypted.asc\";\r\n charset=\"utf-8\"\r\n\
         Content-Description: OpenPGP encrypted message\r\n\
         Content-Disposition: inline; filename=\"encrypted.asc\";\r\n\
         Content-Transfer-Encoding: 7bit\r\n\
         \r\n\
         {armor}\r\n\
         --{boundary}--\r\n"
    );
    let content_type =
        format!("multipart/encrypted; protocol=\"application/pgp-encrypted\";\r\n boundary=\"{boundary}\"");
    Message::new(from, "\"hidden-recipients\": ;", "[...]", &content_type, body)
}

/// Two anonymous session keys (version 6) and one data packet (version 2), as Delta Chat 2.65 writes them.
fn cipher_text(size: usize) -> Vec<u8> {
    let mut packets = Vec::with_capacity(size + 256);
    for _ in 0..2 {
        // Version 6, no recipient key ID, X25519, ephemeral key, length of the wrapped key, the key.
        packet(&mut packets, PKESK, &[6, 0, 25], 32 + 1 + 40);
    }
    // Version 2, AES-256, OCB, chunks of 4 MiB; then salt, data, tag.
    packet(&mut packets, SEIPD, &[2, 9, 2, 16], 32 + size + 16);
    packets
}

/// Appends a packet with a header in the OpenPGP format (RFC 9580, 4.2.1).
fn packet(packets: &mut Vec<u8>, kind: u8, head: &[u8], random: usize) {
    packets.push(0xC0 | kind);
    let length = head.len() + random;
    match u32::try_from(length).unwrap_or(u32::MAX) {
        short @ 0..192 => packets.push(short.to_be_bytes()[3]),
        middle @ 192..8384 => {
            let [.., high, low] = (middle - 192).to_be_bytes();
            packets.extend([high + 192, low]);
        }
        long => {
            packets.push(0xFF);
            packets.extend(long.to_be_bytes());
        }
    }
    packets.extend(head);
    let mut bytes = vec![0; random];
    rand::rng().fill_bytes(&mut bytes);
    packets.extend(bytes);
}

/// ASCII armor with its checksum (RFC 9580, 6.2), lines ending in CRLF.
pub fn armor(packets: &[u8]) -> String {
    let text = STANDARD.encode(packets);
    let mut armor = String::with_capacity(text.len() + text.len() / 32 + 80);
    armor.push_str("-----BEGIN PGP MESSAGE-----\r\n\r\n");
    let mut line = 0;
    for character in text.chars() {
        if line == ARMOR_LINE {
            armor.push_str("\r\n");
            line = 0;
        }
        armor.push(character);
        line += 1;
    }
    let [_, checksum @ ..] = crc24(packets).to_be_bytes();
    armor.push_str(&format!(
        "\r\n={}\r\n-----END PGP MESSAGE-----\r\n",
        STANDARD.encode(checksum)
    ));
    armor
}

/// Returns the checksum of armor (RFC 9580, 6.1.1).
fn crc24(bytes: &[u8]) -> u32 {
    let mut crc: u32 = 0x00B7_04CE;
    for byte in bytes {
        crc ^= u32::from(*byte) << 16;
        for _ in 0..8 {
            crc <<= 1;
            if crc & 0x0100_0000 != 0 {
                crc ^= 0x0186_4CFB;
            }
        }
    }
    crc & 0x00FF_FFFF
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksum_of_known_bytes() {
        // The check value of CRC-24/OPENPGP.
        assert_eq!(crc24(b"123456789"), 0x0021_CF02);
        assert_eq!(crc24(b""), 0x00B7_04CE);
    }

    #[test]
    fn packets_fill_the_cipher_text_exactly() {
        for size in [0, 100, 200, 8000, 9000, 70_000] {
            let packets = cipher_text(size);
            let mut at = 0;
            let mut kinds = Vec::new();
            while at < packets.len() {
                kinds.push(packets[at] & 0x3F);
                let (length, header) = match packets[at + 1] {
                    short @ 0..192 => (usize::from(short), 2),
                    255 => (
                        u32::from_be_bytes(packets[at + 2..at + 6].try_into().unwrap()) as usize,
                        6,
                    ),
                    high => (
                        (usize::from(high) - 192) * 256 + usize::from(packets[at + 2]) + 192,
                        3,
                    ),
                };
                at += header + length;
            }
            assert_eq!(at, packets.len());
            assert_eq!(kinds, [PKESK, PKESK, SEIPD]);
        }
    }

    #[test]
    fn armor_is_whole() {
        let armor = armor(&[0xC1; 100]);
        let lines: Vec<&str> = armor.split("\r\n").collect();
        assert_eq!(lines[0], "-----BEGIN PGP MESSAGE-----");
        assert_eq!(lines[1], "");
        assert_eq!(
            STANDARD.decode(lines[2..lines.len() - 3].concat()).unwrap(),
            [0xC1; 100]
        );
        assert!(lines[lines.len() - 3].starts_with('='));
        assert_eq!(&lines[lines.len() - 2..], ["-----END PGP MESSAGE-----", ""]);
    }

    #[test]
    fn the_message_has_delta_chats_shape() {
        let message = encrypted("someone12@_a.test", 500);
        let text = String::from_utf8(message.bytes()).unwrap();
        assert!(text.starts_with("From: <someone12@_a.test>\r\nDate: "), "{text}");
        assert!(text.contains("\r\nTo: \"hidden-recipients\": ;\r\nSubject: [...]\r\n"));
        assert!(text.contains(
            "\r\nContent-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";\r\n boundary=\""
        ));
        assert!(!text.replace("\r\n", "").contains(['\r', '\n']));
    }
}
