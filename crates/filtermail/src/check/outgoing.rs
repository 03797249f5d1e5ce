//! The policy for mail that users of this relay submit.

use std::borrow::Cow;

use super::mime::Entity;
use super::sender::Sender;
use super::{Direction, is_encrypted, is_securejoin};
use crate::reply::Reply;

/// What a submitted message is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Encrypted, or the first step of SecureJoin.
    Encrypted,
    /// A key that a user sends to their own other device in the way of older clients (Autocrypt 1, section 4.4).
    SetupMessage,
    /// Anything else; it does not pass.
    Cleartext,
}

/// Looks at a whole submitted message. An error is the reply that refuses it.
///
/// Postfix has compared `mail_from` with the login, so it is what the `From` field is measured against.
pub fn examine(message: &[u8], mail_from: &str, recipients: &[String]) -> Result<Kind, Reply> {
    let Ok(entity) = Entity::parse(message) else {
        return Err(Reply::invalid_from_header("malformed header"));
    };
    let value = entity.text("From").unwrap_or(Cow::Borrowed(""));
    let Some(from) = Sender::parse(&value) else {
        return Err(Reply::invalid_from_header(&value));
    };
    if !from.address().eq_ignore_ascii_case(mail_from) {
        return Err(Reply::forged_from(from.address(), mail_from));
    }
    if is_encrypted(&entity, Direction::Outgoing) || is_securejoin(&entity, Direction::Outgoing) {
        return Ok(Kind::Encrypted);
    }
    let to_self = matches!(recipients, [only] if only.eq_ignore_ascii_case(mail_from));
    let setup = to_self
        && entity.text("Subject").as_deref() == Some("Autocrypt Setup Message")
        && entity
            .content_type()
            .is_some_and(|found| found.media_type == "multipart/mixed");
    Ok(if setup {
        Kind::SetupMessage
    } else {
        Kind::Cleartext
    })
}
