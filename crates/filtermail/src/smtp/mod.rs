//! SMTP on both sides: a server for Postfix's `smtpd_proxy_filter` client, and a client that returns messages to
//! Postfix. A [`Policy`] decides which messages pass.

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

/// Size in bytes above which only a few messages are received at once.
pub const LARGE: usize = 1 << 20;

/// Large messages received at once, on all connections together. This, [`LARGE`] and the number of connections bound
/// the memory of the process.
pub const LARGE_AT_ONCE: usize = 8;

/// Sender or recipient with its parameters (RFC 5321 section 4.1.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    /// The address without angle brackets; empty for `<>`.
    pub address: String,
    /// Parameters as received, separated by spaces.
    pub parameters: String,
}

/// The envelope of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Where bounces go.
    pub sender: Path,
    /// Who gets the message.
    pub recipients: Vec<Path>,
    /// Address that sent the message to Postfix, if Postfix knows it (`XFORWARD`).
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
    /// The sender is accepted.
    Accept,
    /// The sender is rejected; the client may try another.
    Reject(Reply),
    /// The sender is rejected, and the connection is closed.
    Close(Reply),
}

/// Decides which messages pass.
pub trait Policy: Sync {
    /// Decides on an envelope sender.
    fn sender(&self, address: &str) -> Admission;

    /// Decides on a whole message, and may change the envelope.
    fn judge(&self, envelope: &mut Envelope, message: &Bytes) -> impl Future<Output = Verdict> + Send;
}

/// The state that all connections of a filter share.
pub struct Server<P> {
    /// Direction of the messages.
    pub direction: Direction,
    /// Decides which messages pass.
    pub policy: P,
    /// Maximum size of a message in bytes.
    pub max_message_size: usize,
    /// Maximum number of recipients of one message.
    pub max_recipients: usize,
    /// Where accepted messages are sent.
    pub reinject: Endpoint,
    /// Permits for large messages.
    pub large: Arc<Semaphore>,
    /// Cancelled when no new transaction may start.
    pub shutdown: daemon::CancellationToken,
}
