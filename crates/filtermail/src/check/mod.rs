//! The checks of a message: pure functions of its bytes.
//!
//! They read no clock, file or socket. Every function takes slices of the one buffer that holds the message, and
//! allocates no memory in proportion to it.

mod armor;
pub mod bounds;
mod content_type;
mod encoding;
mod encrypted;
pub mod header;
pub mod incoming;
pub mod mime;
mod multipart;
mod openpgp;
pub mod outgoing;
mod part;
mod report;
mod securejoin;
mod sender;
mod sink;
mod transport;

use crate::reply::Reply;

/// Direction of a message. Mail of our own users has to meet stricter rules than mail of other servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Submitted by a user of this relay.
    Outgoing,
    /// Arriving from another server.
    Incoming,
}

/// The decision on a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The message passes.
    Accept,
    /// The message is rejected with this reply.
    Reject(Reply),
    /// The policy has passed the message on, or tried to, and this is the reply.
    Answered(Reply),
    /// The policy could not pass the message on. The connection ends without a reply, as if this server were down.
    Unanswered,
}
