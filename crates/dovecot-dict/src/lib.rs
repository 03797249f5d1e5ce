//! Dovecot's dict protocol: the server side of `dict { dict_driver = proxy }`.
//!
//! Dovecot opens a connection, says hello and sends one command a line; fields stand between tabs and are escaped
//! with the byte 1. Replies come in the order of the commands that ask for one. The protocol has no specification;
//! this follows `src/lib-dict*/dict-client.[ch]` and `src/dict/dict-commands.c` of Dovecot 2.3.21 (protocol 3.2) and
//! 2.4.1 (protocol 4.0), which differ in nothing that a server sees beyond the version.
//!
//! - [`codec`]: bytes to commands and replies to bytes, without I/O;
//! - [`serve`]: one connection, whose transactions nobody else sees;
//! - [`Dict`]: what a service implements.

pub mod codec;
mod server;

use std::future::Future;

pub use server::{ConnectionError, Limits, serve};

/// What a service answers with.
pub trait Dict: Send + Sync {
    /// Value of `key`; `user` is whom Dovecot asks for, empty when it asks for nobody.
    fn lookup(&self, user: &str, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>, Failure>> + Send;

    /// Keys and values below a path; nothing unless a service says otherwise.
    fn iterate(&self, query: IterateQuery) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send {
        let _ = query;
        async { Ok(Vec::new()) }
    }

    /// Applies everything that a transaction collected. What it did is durable once this returns [`Ok`].
    fn commit(&self, transaction: Transaction) -> impl Future<Output = Result<Commit, Failure>> + Send;
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Full key.
    pub key: String,
    /// Its value; left out on the wire when the query asks for no values.
    pub value: Vec<u8>,
}

/// What an iteration asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IterateQuery {
    /// Whom Dovecot asks for; empty for nobody.
    pub user: String,
    /// Prefix of the wanted keys.
    pub path: String,
    /// `enum dict_iterate_flags` of Dovecot.
    pub flags: u32,
    /// Most rows wanted; 0 means all. [`serve`] cuts what is beyond.
    pub max_rows: u64,
}

impl IterateQuery {
    /// `DICT_ITERATE_FLAG_NO_VALUE` of Dovecot's `dict.h`.
    const NO_VALUE: u32 = 0x08;

    /// Whether only keys are wanted.
    pub fn without_values(&self) -> bool {
        self.flags & Self::NO_VALUE != 0
    }
}

/// The operations between `B` and `C`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// Whom the transaction is for; empty for nobody.
    pub user: String,
    /// Seconds after which the values may be forgotten; 0 means never.
    pub expire_secs: u32,
    /// What to do, in this order.
    pub operations: Vec<Operation>,
}

/// One change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Gives `key` a value.
    Set {
        /// Full key.
        key: String,
        /// The new value.
        value: Vec<u8>,
    },
    /// Removes `key`.
    Unset {
        /// Full key.
        key: String,
    },
    /// Adds `difference` to the number that `key` holds.
    Increment {
        /// Full key.
        key: String,
        /// May be negative.
        difference: i64,
    },
}

impl Operation {
    /// The key that is changed.
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Unset { key } | Self::Increment { key, .. } => key,
        }
    }
}

/// How a commit ended when nothing failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Everything is stored.
    Done,
    /// A key to be incremented does not exist; nothing is stored.
    NotFound,
}

/// Why a request failed. Dovecot logs the text, so it never holds a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
