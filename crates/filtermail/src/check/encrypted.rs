//! PGP/MIME (RFC 3156 section 4).

use super::armor::is_encrypted_armor;
use super::mime::Entity;
use super::{Direction, parts};

/// Whether a message is `multipart/encrypted` with ciphertext in it and nothing beside.
///
/// Mail programs of others write a line of text before the first part; it passes when it arrives. What our own users
/// send has no text outside the parts.
pub fn is_encrypted(message: &Entity<'_>, direction: Direction) -> bool {
    let Some(content_type) = message.content_type() else {
        return false;
    };
    if content_type.media_type != "multipart/encrypted" || !is_identity(message) {
        return false;
    }
    let Some(parts) = parts(message, content_type, direction) else {
        return false;
    };
    let [version, data] = parts.as_slice() else {
        return false;
    };
    has_type(version, "application/pgp-encrypted")
        && version.body.trim_ascii() == b"Version: 1"
        && has_type(data, "application/octet-stream")
        && is_encrypted_armor(data.body, direction)
}

fn has_type(part: &Entity<'_>, media_type: &str) -> bool {
    is_identity(part)
        && part
            .content_type()
            .is_some_and(|found| found.media_type == media_type)
}

/// Whether the body stands as it is (RFC 2045 section 6.2).
fn is_identity(part: &Entity<'_>) -> bool {
    let mut encodings = part.all("Content-Transfer-Encoding");
    encodings.all(|encoding| {
        let encoding = encoding.trim_ascii();
        encoding.eq_ignore_ascii_case(b"7bit") || encoding.eq_ignore_ascii_case(b"8bit")
    })
}
