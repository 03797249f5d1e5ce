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

/// Kind of an arriving message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Encrypted, or the first step of SecureJoin.
    Encrypted,
    /// A report that a message could not be delivered; programs that send reports have no keys.
    MailerDaemon,
    /// Any other message; it passes only if no recipient refuses cleartext.
    Cleartext,
}

/// The properties of an arriving message that the policy depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Examined {
    /// Kind of the message.
    pub kind: Kind,
    /// The address in the `From` field.
    pub from: String,
    /// Domain of that address in lower case, which has to have signed the message.
    pub domain: String,
    /// The domain, if it is an address literal, for which no signature is possible.
    pub literal: Option<IpAddr>,
    /// Whether the envelope names another sender, as that of a forwarder does. The sender is then reset to `<>`, so
    /// that no bounce reaches somebody who did not send the message.
    pub reset_sender: bool,
}

/// Examines an arriving message. An error is the reply that rejects it.
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

/// Checks that the message was sent from the address literal of its sender. If the origin is unknown, the sender could
/// be anybody, so the message is rejected. So is a message from the literal of this relay, `own`: its users submit their
/// mail, and anything else that connects from its address is a process on the same host.
pub fn check_literal(literal: IpAddr, origin: Option<IpAddr>, own: Option<IpAddr>) -> Result<(), Reply> {
    if own.is_some_and(|own| own.to_canonical() == literal.to_canonical()) {
        return Err(Reply::own_literal(literal));
    }
    match origin {
        Some(origin) if origin.to_canonical() == literal.to_canonical() => Ok(()),
        origin => Err(Reply::foreign_literal(literal, origin)),
    }
}
