//! Metrics of `filtermail mxdeliv`.

use metrics::{counter, describe_counter};

const REQUESTS: &str = "chatmail_mxdeliv_requests_total";

/// The result of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Outcome {
    /// Postfix has queued the message.
    Accepted,
    /// The reply is temporary; the sender should try again.
    Deferred,
    /// The envelope or the message was rejected.
    Refused,
    /// The message was larger than the relay accepts.
    TooLarge,
    /// The client has closed the connection, or was too slow.
    Aborted,
    /// The session with Postfix failed.
    Unavailable,
}

impl Outcome {
    const ALL: [Self; 6] = [
        Self::Accepted,
        Self::Deferred,
        Self::Refused,
        Self::TooLarge,
        Self::Aborted,
        Self::Unavailable,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Deferred => "deferred",
            Self::Refused => "refused",
            Self::TooLarge => "too_large",
            Self::Aborted => "aborted",
            Self::Unavailable => "unavailable",
        }
    }
}

/// Names the metrics and sets them to zero.
pub(super) fn describe() {
    describe_counter!(REQUESTS, "Requests to deliver a message over HTTPS, by result.");
    for outcome in Outcome::ALL {
        counter!(REQUESTS, "result" => outcome.name()).absolute(0);
    }
}

/// Counts an answered request.
pub(super) fn count(outcome: Outcome) {
    counter!(REQUESTS, "result" => outcome.name()).increment(1);
}
