//! Maildir++ as Dovecot writes it: the names of message files, and a walk over all messages of a mailbox.
//!
//! A mailbox consists of the folders `cur`, `new` and `tmp` of INBOX, and one hidden folder (`.Sent`, `.A.B`) with the
//! same three for every other folder. Other files are not messages: Dovecot's indexes and files of our services.

mod name;
mod walk;

pub use name::{MessageName, Part};
pub use walk::{Found, Mailbox, Message, MessageDir, Metadata, Problem};
