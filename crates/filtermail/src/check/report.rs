//! Reports that a message could not be delivered (RFC 3464). Programs that send reports have no keys.

use super::Direction;
use super::encoding::is_identity;
use super::mime::Entity;
use super::multipart::{REPORT_PREAMBLES, parts};
use super::sender::Sender;

/// Whether an arriving message is a report of another server's mail system, with the parts of a report and no other
/// text.
///
/// A report is never bounced, so its envelope has no sender (RFC 3464 section 2).
pub(super) fn is_report(message: &Entity<'_>, from: &Sender, mail_from: &str) -> bool {
    let automatic = message
        .text("Auto-Submitted")
        .is_some_and(|value| !value.is_empty());
    let kind = message.content_type().is_some_and(|found| {
        let report = found.parameter("report-type");
        found.media_type == "multipart/report"
            && report.is_some_and(|report| report.eq_ignore_ascii_case("delivery-status"))
    });
    if !mail_from.is_empty()
        || !from.is_mailer_daemon()
        || !automatic
        || !kind
        || !message.is_plain()
        || !is_identity(message, Direction::Incoming)
    {
        return false;
    }
    let Some(parts) = parts(message, &REPORT_PREAMBLES, Direction::Incoming) else {
        return false;
    };
    // An explanation, the status, and usually the returned message or its header.
    let [_, status, returned @ ..] = parts.as_slice() else {
        return false;
    };
    let is = |part: &Entity<'_>, types: &[&str]| {
        part.content_type()
            .is_some_and(|found| types.contains(&found.media_type.as_str()))
    };
    let status = is(
        status,
        &["message/delivery-status", "message/global-delivery-status"],
    );
    let returned = returned.len() <= 1
        && returned.iter().all(|part| {
            let types = [
                "message/rfc822",
                "text/rfc822-headers",
                "message/global",
                "message/global-headers",
            ];
            is(part, &types)
        });
    status && returned
}
