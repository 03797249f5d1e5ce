//! What a service implements, and the requests it gets.

use std::future::Future;

/// The dict of a service.
pub trait Dict: Send + Sync {
    /// Value of `key`; `user` is the user of the request, empty if there is none.
    fn lookup(&self, user: &str, key: &str) -> impl Future<Output = Result<Option<Vec<u8>>, Failure>> + Send;

    /// Keys and values below a path; none by default.
    fn iterate(&self, query: IterateQuery) -> impl Future<Output = Result<Vec<Row>, Failure>> + Send {
        let _ = query;
        async { Ok(Vec::new()) }
    }

    /// Applies all operations of a transaction. They are durable once this returns [`Ok`].
    fn commit(&self, transaction: Transaction) -> impl Future<Output = Result<Commit, Failure>> + Send;
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Row {
    /// Full key.
    pub key: String,
    /// The value; not sent if the query asks only for keys.
    pub value: Vec<u8>,
}

/// The query of an iteration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct IterateQuery {
    /// User of the request; empty if there is none.
    pub user: String,
    /// Prefix of the wanted keys.
    pub path: String,
    /// `enum dict_iterate_flags` of Dovecot.
    pub flags: u32,
    /// Maximum number of rows; 0 means all. [`serve`](crate::serve) drops further ones.
    pub max_rows: u64,
}

impl IterateQuery {
    /// `DICT_ITERATE_FLAG_NO_VALUE` of Dovecot's `dict.h`.
    const NO_VALUE: u32 = 0x08;

    /// Whether the query asks only for keys.
    pub fn without_values(&self) -> bool {
        self.flags & Self::NO_VALUE != 0
    }
}

/// The operations between `B` and `C`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transaction {
    /// User of the transaction; empty if there is none.
    pub user: String,
    /// Seconds after which the values may expire; 0 means never.
    pub expire_secs: u32,
    /// The operations in their order.
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
    /// Adds `difference` to the number stored at `key`.
    Increment {
        /// Full key.
        key: String,
        /// The difference, which may be negative.
        difference: i64,
    },
}

impl Operation {
    /// The changed key.
    pub fn key(&self) -> &str {
        match self {
            Self::Set { key, .. } | Self::Unset { key } | Self::Increment { key, .. } => key,
        }
    }
}

/// The outcome of a commit that did not fail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Everything is stored.
    Done,
    /// A key to be incremented does not exist; nothing is stored.
    NotFound,
}

/// Why a request failed. Dovecot logs the text, so it must not contain a value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Failure(pub String);

impl Failure {
    /// A failure with this text.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }
}
