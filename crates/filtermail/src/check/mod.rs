//! What may pass: pure functions over the bytes of a message.
//!
//! Nothing here reads a clock, a file or a socket. Every function takes slices of the one buffer that holds the
//! message and allocates nothing in proportion to it.

mod armor;
pub mod bounds;
mod encrypted;
pub mod incoming;
pub mod mime;
mod openpgp;
pub mod outgoing;
mod securejoin;
pub mod sender;

pub use armor::is_encrypted_armor;
pub use encrypted::is_encrypted;
pub use securejoin::is_securejoin;

use self::mime::{ContentType, Entity, Multipart};
use crate::reply::Reply;

/// Which way a message goes. What our own users send is held to a narrower form than what others do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Submitted by a user of this relay.
    Outgoing,
    /// Arriving from another server.
    Incoming,
}

/// The parts of a multipart message. None when it is malformed, and when it has text outside of the parts that this
/// direction does not allow.
fn parts<'a>(
    message: &Entity<'a>,
    content_type: ContentType,
    direction: Direction,
) -> Option<Vec<Entity<'a>>> {
    let multipart = Multipart::parse(message.body, &content_type.boundary?)?;
    let allowed = direction == Direction::Incoming || !multipart.has_outside_text();
    allowed.then_some(multipart.parts)
}

/// What becomes of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It goes on.
    Accept,
    /// It does not, and this is what the other side is told.
    Reject(Reply),
}
