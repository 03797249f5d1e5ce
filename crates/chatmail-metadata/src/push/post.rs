//! Requests to the notification server, and its answers.

use std::time::Duration;

/// Sends a token to the notification server.
pub trait Post: Send + Sync + 'static {
    /// Sends one request, which has to end by itself.
    fn post(&self, token: &str) -> impl Future<Output = Reply> + Send;
}

/// The outcome of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The device was notified.
    Delivered,
    /// The device does not exist any more.
    Gone,
    /// The request failed and may succeed later.
    Failed {
        /// Minimum delay that the server asks for.
        after: Option<Duration>,
        /// What failed, without the token.
        reason: String,
    },
}

impl Reply {
    /// Value of the label `result` in the metrics.
    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Delivered => "delivered",
            Self::Gone => "gone",
            Self::Failed { .. } => "failed",
        }
    }
}
