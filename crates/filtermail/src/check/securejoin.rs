//! The first step of SecureJoin, which cannot be encrypted because the keys are not known yet.

use super::Direction;
use super::encoding::{Short, is_identity};
use super::mime::Entity;
use super::multipart::{has_no_other_delimiter, parts};
use super::part;

/// Whether a message is a `vc-request` or `vg-request` without other text. All later steps are encrypted.
pub(super) fn is_securejoin(message: &Entity<'_>, direction: Direction) -> bool {
    let step = message.text("Secure-Join");
    let multipart = message
        .content_type()
        .is_some_and(|found| found.media_type.starts_with("multipart/"));
    if !matches!(step.as_deref(), Some("vc-request" | "vg-request"))
        || !multipart
        || !message.is_plain()
        || !is_identity(message, direction)
    {
        return false;
    }
    let Some(parts) = parts(message, &[], direction) else {
        return false;
    };
    let [text] = parts.as_slice() else {
        return false;
    };
    part::is(text, "text/plain", direction)
        && has_no_other_delimiter(message.body, parts.len() + 1, &[])
        && Short::decoded(text, direction).is_some_and(|text| {
            text.eq_ignore_ascii_case(b"secure-join: vc-request")
                || text.eq_ignore_ascii_case(b"secure-join: vg-request")
        })
}
