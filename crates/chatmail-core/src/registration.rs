//! Who can create an account: invitations, and the number of new accounts per hour.
//!
//! The folder of the registration contains a file for each invitation, named by the hash of its token, and the file
//! `created` with the number of new accounts in each minute of the last hour. doveauth and the operator's command line
//! write there, one at a time; newemail only reads. Every file is replaced atomically.
//!
//! newemail puts the token in front of the password that it generates, so the first login proves the invitation, and
//! doveauth counts its use when it creates the account. An address that is never used costs nothing.

mod denied;
mod invitation;
mod store;

pub use denied::Denied;
pub use invitation::{Id, Invitation, State, TOKEN_LENGTH, Token};
pub use store::{Locked, MAX_INVITATIONS, Register};

#[cfg(test)]
mod tests;
