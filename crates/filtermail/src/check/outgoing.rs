//! The policy for mail that users of this relay submit.

use std::borrow::Cow;

use super::Direction;
use super::encrypted::is_encrypted;
use super::mime::Entity;
use super::securejoin::is_securejoin;
use super::sender::Sender;
use super::transport::arrives_as_signed;
use crate::reply::Reply;

/// Kind of a submitted message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Encrypted, or the first step of SecureJoin.
    Encrypted,
    /// A key that a user sends to their own other device, as older clients do (Autocrypt 1, section 4.4).
    SetupMessage,
    /// Any other message; it is rejected.
    Cleartext,
}

/// Examines a submitted message. An error is the reply that rejects it.
///
/// Postfix has compared `mail_from` with the login, so the `From` field has to equal it.
pub fn examine(message: &[u8], mail_from: &str, recipients: &[String]) -> Result<Kind, Reply> {
    let Ok(entity) = Entity::message(message) else {
        return Err(Reply::invalid_from_header("malformed header"));
    };
    let Some(from) = entity.only("From").and_then(Sender::parse) else {
        let value = entity.text("From").unwrap_or(Cow::Borrowed(""));
        return Err(Reply::invalid_from_header(&value));
    };
    if !from.address().eq_ignore_ascii_case(mail_from) {
        return Err(Reply::forged_from(from.address(), mail_from));
    }
    let other_sender = ["Sender", "Resent-From", "Resent-Sender"]
        .iter()
        .flat_map(|name| entity.all(name))
        .any(|value| {
            !Sender::parse(value).is_some_and(|sender| sender.address().eq_ignore_ascii_case(mail_from))
        });
    if other_sender {
        return Err(Reply::FOREIGN_SENDER);
    }
    if is_encrypted(&entity, Direction::Outgoing) || is_securejoin(&entity, Direction::Outgoing) {
        return arrives_as_signed(message).map(|()| Kind::Encrypted);
    }
    let to_self = matches!(recipients, [only] if only.eq_ignore_ascii_case(mail_from));
    let setup = to_self
        && entity.text("Subject").as_deref() == Some("Autocrypt Setup Message")
        && entity
            .content_type()
            .is_some_and(|found| found.media_type == "multipart/mixed");
    if setup {
        return arrives_as_signed(message).map(|()| Kind::SetupMessage);
    }
    Ok(Kind::Cleartext)
}
