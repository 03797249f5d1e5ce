//! The policy for mail that arrives from other servers.

use std::net::IpAddr;

use super::Direction;
use super::encrypted::is_encrypted;
use super::mime::Entity;
use super::report::is_report;
use super::securejoin::is_securejoin;
use super::sender::Sender;
pub(crate) use super::sender::literal;
use crate::reply::Reply;

/// What an arriving message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Encrypted, or the first step of SecureJoin.
    Encrypted,
    /// A report that a message could not be delivered; programs that write them have no keys.
    MailerDaemon,
    /// Anything else; it passes only if no recipient refuses cleartext.
    Cleartext,
}

/// What the policy needs to know about an arriving message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// What it is.
    pub kind: Kind,
    /// The address in the `From` field.
    pub from: String,
    /// Domain of that address in lower case; what has to have signed the message.
    pub domain: String,
    /// The domain, if it is an address literal, which nothing can sign for.
    pub literal: Option<IpAddr>,
    /// Whether the envelope names another sender. Forwarders do that; the sender is then reset to `<>`, so that no
    /// bounce goes to somebody who did not send the message.
    pub reset_sender: bool,
}

/// Looks at a whole arriving message. An error is the reply that refuses it.
pub fn examine(message: &[u8], mail_from: &str) -> Result<Examined, Reply> {
    let entity = Entity::message(message).map_err(|_| Reply::unparsable("malformed header"))?;
    let from = entity
        .only("From")
        .and_then(Sender::parse)
        .ok_or_else(|| Reply::unparsable("malformed From"))?;
    let kind = if is_encrypted(&entity, Direction::Incoming) || is_securejoin(&entity, Direction::Incoming) {
        Kind::Encrypted
    } else if is_report(&entity, &from, mail_from) {
        Kind::MailerDaemon
    } else {
        Kind::Cleartext
    };
    Ok(Examined {
        kind,
        from: from.address().to_owned(),
        domain: from.domain().to_ascii_lowercase(),
        literal: from.literal(),
        reset_sender: !from.address().eq_ignore_ascii_case(mail_from),
    })
}

/// Compares the address literal of a sender with where the message came from. Without the latter the sender could be
/// anybody, so it is refused. So is the literal of this relay, `own`: its users submit their mail, and whatever else
/// connects from its address is a process on the same host.
pub fn check_literal(literal: IpAddr, origin: Option<IpAddr>, own: Option<IpAddr>) -> Result<(), Reply> {
    if own.is_some_and(|own| own.to_canonical() == literal.to_canonical()) {
        return Err(Reply::own_literal(literal));
    }
    match origin {
        Some(origin) if origin.to_canonical() == literal.to_canonical() => Ok(()),
        origin => Err(Reply::foreign_literal(literal, origin)),
    }
}
