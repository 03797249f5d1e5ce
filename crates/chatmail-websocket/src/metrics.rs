//! Metrics of the service.

use metrics::{counter, describe_counter, describe_gauge, gauge};

use crate::handshake::Protocol;

const SESSIONS: &str = "chatmail_websocket_sessions_total";
const OPEN: &str = "chatmail_websocket_open_sessions";
const REFUSED: &str = "chatmail_websocket_refused_total";

/// Names the metrics and sets them to zero.
pub(crate) fn describe() {
    describe_counter!(
        SESSIONS,
        "Sessions over WebSocket, by protocol and whether the mail server could be reached."
    );
    describe_gauge!(OPEN, "Open sessions over WebSocket, by protocol.");
    describe_counter!(REFUSED, "Requests for a WebSocket that were refused.");
    counter!(REFUSED).absolute(0);
    for protocol in Protocol::ALL {
        for result in ["opened", "unavailable"] {
            counter!(SESSIONS, "protocol" => protocol.name(), "result" => result).absolute(0);
        }
        gauge!(OPEN, "protocol" => protocol.name()).set(0);
    }
}

/// Counts a refused request.
pub(crate) fn refused() {
    counter!(REFUSED).increment(1);
}

/// Counts a session whose mail server could not be reached.
pub(crate) fn unavailable(protocol: Protocol) {
    counter!(SESSIONS, "protocol" => protocol.name(), "result" => "unavailable").increment(1);
}

/// A session that counts as open until this is dropped.
pub(crate) struct Open(Protocol);

impl Open {
    pub(crate) fn new(protocol: Protocol) -> Self {
        counter!(SESSIONS, "protocol" => protocol.name(), "result" => "opened").increment(1);
        gauge!(OPEN, "protocol" => protocol.name()).increment(1);
        Self(protocol)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        gauge!(OPEN, "protocol" => self.0.name()).decrement(1);
    }
}
