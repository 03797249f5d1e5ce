//! Headers of the parts of an encrypted message.

use super::Direction;
use super::mime::{Entity, unfold};

/// Maximum size of a part's header. Programs write about 200 bytes.
const MAX_HEAD: usize = 1024;

/// Values of `Content-Description` that mail programs write, in lower case.
const DESCRIPTIONS: [&str; 6] = [
    "pgp/mime version identification",
    "pgp/mime versions identification",
    "openpgp encrypted message",
    "this is a digitally encrypted message part",
    "version code",
    "encrypted data",
];

/// Whether a part has this type, and a header without room for text.
///
/// In submitted mail, a part has only the fields that programs write, with known descriptions and short names:
/// otherwise they could contain a message.
pub(super) fn is(part: &Entity<'_>, media_type: &str, direction: Direction) -> bool {
    let Some(content_type) = part.content_type() else {
        return false;
    };
    let sound = content_type.media_type == media_type && part.head.len() <= MAX_HEAD;
    match direction {
        Direction::Incoming => sound,
        Direction::Outgoing => sound && tells_nothing(part),
    }
}

/// Whether the header contains no text. Older versions of Delta Chat repeat the Message-ID in the part of an
/// unencrypted message.
fn tells_nothing(part: &Entity<'_>) -> bool {
    part.names().all(|name| {
        let values = || part.all(std::str::from_utf8(name).unwrap_or_default());
        match name.to_ascii_lowercase().as_slice() {
            b"content-type" | b"content-disposition" => values().all(has_short_parameters),
            b"content-description" => values().all(is_known_description),
            b"content-transfer-encoding" | b"content-id" | b"message-id" | b"mime-version" => {
                values().all(|value| value.len() <= 80)
            }
            _ => false,
        }
    })
}

fn is_known_description(raw: &[u8]) -> bool {
    unfold(raw).is_some_and(|text| DESCRIPTIONS.contains(&text.to_ascii_lowercase().as_str()))
}

/// Whether all parameters of a value are as short as a file name or a charset.
fn has_short_parameters(raw: &[u8]) -> bool {
    const MAX_WORD: usize = 40;
    const MAX_WORDS: usize = 6;
    let word = |text: &str| text.len() <= MAX_WORD && text.bytes().all(|b| b.is_ascii_graphic());
    unfold(raw).is_some_and(|text| {
        let words: Vec<&str> = text.split(';').map(str::trim).collect();
        words.len() <= MAX_WORDS && words.into_iter().all(word)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(head: &str) -> (bool, bool) {
        let text = format!("{head}\r\n\r\n");
        let part = Entity::part(text.as_bytes()).unwrap();
        let is = |direction| super::is(&part, "a/b", direction);
        (is(Direction::Incoming), is(Direction::Outgoing))
    }

    #[test]
    fn headers_that_programs_write() {
        for head in [
            "Content-Type: a/b",
            "Content-Type: a/b; charset=\"utf-8\"\r\nContent-Description: PGP/MIME version identification\r\nContent-Transfer-Encoding: 7bit",
            "Content-Type: a/b; name=\"encrypted.asc\";\r\n charset=\"utf-8\"\r\nContent-Description: OpenPGP encrypted message\r\nContent-Disposition: inline; filename=\"encrypted.asc\";",
            "Content-Disposition: inline;\r\n    filename=encrypted.asc\r\nContent-Type: a/b;\r\n    name=encrypted.asc",
        ] {
            assert_eq!(both(head), (true, true), "{head}");
        }
    }

    #[test]
    fn headers_that_could_hold_a_message() {
        for head in [
            "Content-Type: a/b\r\nContent-Description: see you at noon",
            "Content-Type: a/b; name=\"see you at noon.asc\"",
            "Content-Type: a/b\r\nContent-Disposition: inline; filename=\"see you\"",
            "Content-Type: a/b\r\nContent-Disposition: see you",
            "Content-Type: a/b\r\nSubject: see you",
            "Content-Type: a/b\r\nX-Y: z",
        ] {
            assert_eq!(both(head), (true, false), "{head}");
        }
        let long = format!("Content-Type: a/b\r\nX: {}", "y".repeat(MAX_HEAD));
        assert_eq!(both(&long), (false, false));
        assert_eq!(both("Content-Type: a/c"), (false, false));
    }
}
