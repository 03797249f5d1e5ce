//! PGP/MIME (RFC 3156 section 4).

use super::Direction;
use super::armor::{self, Armor};
use super::encoding::{Short, decode, is_identity};
use super::mime::Entity;
use super::multipart::{ENCRYPTED_PREAMBLES, has_no_other_delimiter, parts};
use super::part;

/// Whether every program finds in this message `multipart/encrypted` with ciphertext, and no other text that a person
/// could read.
pub(super) fn is_encrypted(message: &Entity<'_>, direction: Direction) -> bool {
    let multipart = message
        .content_type()
        .is_some_and(|found| found.media_type == "multipart/encrypted");
    if !multipart || !message.is_plain() || !is_identity(message, direction) {
        return false;
    }
    let Some(parts) = parts(message, &ENCRYPTED_PREAMBLES, direction) else {
        return false;
    };
    let [version, data] = parts.as_slice() else {
        return false;
    };
    part::is(version, "application/pgp-encrypted", direction)
        && Short::decoded(version, direction).is_some_and(|text| text == b"Version: 1")
        && part::is(data, "application/octet-stream", direction)
        && has_no_other_delimiter(message.body, parts.len() + 1, &[armor::BEGIN, armor::END])
        && decode(data, direction, Armor::new(direction)).is_ok_and(Armor::ends_here)
}
