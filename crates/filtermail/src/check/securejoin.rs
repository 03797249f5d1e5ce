//! The first step of SecureJoin, which cannot be encrypted because the keys are not known yet.

use super::mime::Entity;
use super::{Direction, parts};

/// Whether a message is a `vc-request` or `vg-request` and has no other text. All later steps are encrypted.
pub fn is_securejoin(message: &Entity<'_>, direction: Direction) -> bool {
    let step = message.text("Secure-Join");
    if !matches!(step.as_deref(), Some("vc-request" | "vg-request")) {
        return false;
    }
    let Some(content_type) = message.content_type() else {
        return false;
    };
    if !content_type.media_type.starts_with("multipart/") {
        return false;
    }
    let Some(parts) = parts(message, content_type, direction) else {
        return false;
    };
    let [part] = parts.as_slice() else {
        return false;
    };
    let body = part.body.trim_ascii();
    part.content_type()
        .is_some_and(|found| found.media_type == "text/plain")
        && (body.eq_ignore_ascii_case(b"secure-join: vc-request")
            || body.eq_ignore_ascii_case(b"secure-join: vg-request"))
}
