//! The state that connections share, and the policy that they apply.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use super::client::Target;
use super::envelope::Envelope;
use super::large::{Large, Permit};
use crate::check::Verdict;
use crate::reply::Reply;

/// Answer to `MAIL` or `RCPT`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// The address is accepted.
    Accept,
    /// The address is rejected; the client may try another.
    Reject(Reply),
    /// The address is rejected, and the connection is closed.
    Close(Reply),
}

/// Decides which messages pass.
pub trait Policy: Sync {
    /// Decides on an envelope sender.
    fn sender(&self, address: &str) -> Admission;

    /// Decides on a recipient.
    fn recipient(&self, _address: &str) -> Admission {
        Admission::Accept
    }

    /// Decides on message data that cannot be a message of this relay; `reply` says why.
    fn malformed(&self, reply: Reply) -> Verdict {
        Verdict::Reject(reply)
    }

    /// Names those who may have only a part of the permits for large messages.
    fn holders(&self, envelope: &Envelope) -> Vec<String>;

    /// Counts a message by the reply to it.
    fn answered(&self, _reply: &Reply, _took: Duration) {}

    /// Decides on a whole message, and may change the envelope.
    fn judge(&self, envelope: &mut Envelope, message: &Bytes) -> impl Future<Output = Verdict> + Send;
}

/// The state that all connections of a filter share.
pub struct Server<P> {
    /// Decides which messages pass.
    pub policy: P,
    /// Maximum size of a message in bytes.
    pub max_message_size: usize,
    /// Maximum number of recipients of one message.
    pub max_recipients: usize,
    /// Where accepted messages are sent; none if the policy answers every message itself.
    pub reinject: Option<Arc<Target>>,
    /// Permits for large messages. The connection is closed if there is none for too long.
    pub large: Arc<Large>,
    /// Whether the client declares true sizes, so that a large message gets its permit before it is sent.
    pub trusts_sizes: bool,
    /// Cancelled when no new transaction may start.
    pub shutdown: daemon::CancellationToken,
}

impl<P: Policy> Server<P> {
    /// Waits for a permit for a large message.
    pub(super) async fn permit(&self, envelope: &Envelope) -> Option<Permit> {
        self.large.permit(self.policy.holders(envelope)).await
    }
}
