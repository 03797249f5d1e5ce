//! The wire on both sides: a server that Postfix's `smtpd_proxy_filter` client speaks to, and a client that hands
//! messages back. Nothing here knows what may pass; that is a [`Policy`].

mod client;
mod command;
mod data;
mod session;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use chatmail_core::Endpoint;
use tokio::sync::Semaphore;

pub use client::{Delivery, Reinjector};
pub use command::{Command, parse_command};
pub use data::{MessageData, Received, Stuffing, stuffed};
pub use session::serve_connection;

use crate::check::{Direction, Verdict};
use crate::reply::Reply;

/// Messages above this many bytes are received a few at a time.
pub const LARGE: usize = 1 << 20;

/// Large messages received at once, over all connections. Together with [`LARGE`] and the number of connections this
/// bounds the memory of the process.
pub const LARGE_AT_ONCE: usize = 8;

/// Sender or recipient with the parameters that followed it (RFC 5321 section 4.1.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    /// The address without angle brackets; empty for `<>`.
    pub address: String,
    /// Parameters as they came, separated by spaces.
    pub parameters: String,
}

/// All about a message that is not in the message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Where bounces go.
    pub sender: Path,
    /// Who gets the message.
    pub recipients: Vec<Path>,
    /// Address that the message came to Postfix from, as far as Postfix says (`XFORWARD`).
    pub origin: Option<IpAddr>,
}

impl Envelope {
    /// Addresses of all recipients.
    pub fn recipient_addresses(&self) -> Vec<String> {
        self.recipients.iter().map(|path| path.address.clone()).collect()
    }
}

/// Answer to `MAIL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Admission {
    /// Go on.
    Accept,
    /// No; another sender may be tried.
    Reject(Reply),
    /// No, and the connection ends.
    Close(Reply),
}

/// What may pass.
pub trait Policy: Sync {
    /// Looks at an envelope sender.
    fn sender(&self, address: &str) -> Admission;

    /// Decides on a whole message, and may change the envelope.
    fn judge(&self, envelope: &mut Envelope, message: &Bytes) -> impl Future<Output = Verdict> + Send;
}

/// What all connections of a filter share.
pub struct Server<P> {
    /// Which way the messages go.
    pub direction: Direction,
    /// What may pass.
    pub policy: P,
    /// Largest message in bytes.
    pub max_message_size: usize,
    /// Most recipients of one message.
    pub max_recipients: usize,
    /// Where accepted messages go.
    pub reinject: Endpoint,
    /// Permits for large messages.
    pub large: Arc<Semaphore>,
    /// Cancelled when no new transaction may begin.
    pub shutdown: daemon::CancellationToken,
}
