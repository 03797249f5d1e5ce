//! Dovecot's dict protocol: the server side of `dict { dict_driver = proxy }`.
//!
//! Dovecot opens a connection, sends a hello, and then one command per line; fields are separated by tabs and escaped
//! with the byte 1. Replies are sent in the order of their commands. The protocol has no specification; this follows
//! `src/lib-dict*/dict-client.[ch]` and `src/dict/dict-commands.c` of Dovecot 2.3.21 (protocol 3.2) and 2.4.1 (protocol
//! 4.0), which differ for a server only in the version.
//!
//! - [`codec`]: parses commands and encodes replies, without I/O;
//! - [`serve`]: serves one connection with its own transactions;
//! - [`Dict`]: the trait of a service.

pub mod codec;
mod dict;
mod server;

pub use dict::{Commit, Dict, Failure, IterateQuery, Operation, Row, Transaction};
pub use server::{ConnectionError, Limits, serve};
