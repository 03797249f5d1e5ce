//! The dict that Dovecot asks.

use std::sync::Arc;

use chatmail_core::Address;
use dovecot_dict::{Commit, Dict, Failure, Operation, Transaction};
use tokio::task::spawn_blocking;

use crate::Clock;
use crate::announce::Announcements;
use crate::lookup::Key;
use crate::metrics;
use crate::push::{Inlet, Post};
use crate::tokens::TokenStore;

/// Answers for all accounts. Cheap to clone.
#[derive(Debug)]
pub struct MetadataDict<P> {
    inner: Arc<Inner<P>>,
}

#[derive(Debug)]
struct Inner<P> {
    announcements: Announcements,
    tokens: Arc<TokenStore>,
    push: Inlet<P>,
    clock: Clock,
}

impl<P> Clone for MetadataDict<P> {
    fn clone(&self) -> Self {
        let inner = Arc::clone(&self.inner);
        Self { inner }
    }
}

/// A change that was understood.
enum Change {
    AddToken(String),
    ClearTokens,
    Message,
}

impl<P: Post> MetadataDict<P> {
    /// Puts the parts together.
    pub fn new(announcements: Announcements, tokens: Arc<TokenStore>, push: Inlet<P>, clock: Clock) -> Self {
        let inner = Arc::new(Inner {
            announcements,
            tokens,
            push,
            clock,
        });
        Self { inner }
    }
}

impl<P: Post> Dict for MetadataDict<P> {
    async fn lookup(&self, user: &str, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let Some(key) = Key::parse(key) else {
            return Ok(None);
        };
        let user = user.to_owned();
        self.blocking(move |inner| inner.lookup(&user, key)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Commit, Failure> {
        self.blocking(move |inner| inner.commit(transaction)).await
    }
}

impl<P: Post> MetadataDict<P> {
    /// Files are read and written off the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner<P>) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let inner = Arc::clone(&self.inner);
        spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| Err(Failure::new(error.to_string())))
    }
}

impl<P: Post> Inner<P> {
    fn lookup(&self, user: &str, key: Key) -> Result<Option<Vec<u8>>, Failure> {
        if key != Key::DeviceTokens {
            let value = self.announcements.value(key, user, self.clock.unix());
            return Ok(value.map(String::into_bytes));
        }
        let Ok(address) = Address::parse(user) else {
            return Ok(None);
        };
        let tokens = self.tokens.tokens(&address, self.clock.unix()).map_err(failure)?;
        Ok((!tokens.is_empty()).then(|| tokens.join(" ").into_bytes()))
    }

    /// Does nothing unless everything in the transaction is understood.
    fn commit(&self, transaction: Transaction) -> Result<Commit, Failure> {
        let address = Address::parse(&transaction.user).map_err(failure)?;
        let changes = transaction
            .operations
            .into_iter()
            .map(change)
            .collect::<Result<Vec<_>, _>>()?;
        let now = self.clock.unix();
        for change in changes {
            match change {
                Change::AddToken(token) => {
                    self.tokens.add(&address, &token, now).map_err(failure)?;
                    metrics::token("set");
                }
                Change::ClearTokens => {
                    self.tokens.clear(&address, now).map_err(failure)?;
                    metrics::token("cleared");
                }
                Change::Message => self.push.message(&address).map_err(failure)?,
            }
        }
        Ok(Commit::Done)
    }
}

fn change(operation: Operation) -> Result<Change, Failure> {
    match (Key::parse(operation.key()), operation) {
        (Some(Key::DeviceTokens), Operation::Set { value, .. }) => String::from_utf8(value)
            .map(Change::AddToken)
            .map_err(|_| Failure::new("not a device token")),
        (Some(Key::DeviceTokens), Operation::Unset { .. }) => Ok(Change::ClearTokens),
        (Some(Key::MessageNew), Operation::Set { .. }) => Ok(Change::Message),
        // Clients may keep nothing else here.
        _ => Err(Failure::new("no such key, or it cannot be changed")),
    }
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}
