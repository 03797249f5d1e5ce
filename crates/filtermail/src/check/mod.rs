//! What may pass: pure functions over the bytes of a message.
//!
//! Nothing here reads a clock, a file or a socket. Every function takes slices of the one buffer that holds the
//! message and allocates nothing in proportion to it.

mod armor;
pub mod bounds;
mod content_type;
mod encoding;
mod encrypted;
pub mod incoming;
pub mod mime;
mod multipart;
mod openpgp;
pub mod outgoing;
mod part;
mod report;
mod securejoin;
mod sender;
mod transport;

use crate::reply::Reply;

/// Which way a message goes. What our own users send is held to a narrower form than what others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Submitted by a user of this relay.
    Outgoing,
    /// Arriving from another server.
    Incoming,
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It does not, and this is what the other side is told.
    Reject(Reply),
}
