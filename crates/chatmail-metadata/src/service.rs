//! The dict that Dovecot uses.

use std::sync::Arc;

use chatmail_core::Address;
use dovecot_dict::{Commit, Dict, Failure, IterateQuery, Operation, Row, Transaction};
use tokio::task::spawn_blocking;

use crate::Clock;
use crate::announce::Announcements;
use crate::entries::Limits;
use crate::lookup::{Key, Kind};
use crate::metrics;
use crate::tokens::{MetadataStore, StoreError};

/// The dict of all accounts. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MetadataDict {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    announcements: Announcements,
    store: Arc<MetadataStore>,
    limits: Limits,
    clock: Clock,
}

/// A parsed change.
enum Change {
    AddToken(Vec<u8>),
    ClearTokens,
    SetEntry(String, Vec<u8>),
    UnsetEntry(String),
    /// A change of a key that stores no values.
    Nothing,
}

impl MetadataDict {
    /// Creates the dict of these parts.
    pub fn new(
        announcements: Announcements,
        store: Arc<MetadataStore>,
        limits: Limits,
        clock: Clock,
    ) -> Self {
        let inner = Arc::new(Inner {
            announcements,
            store,
            limits,
            clock,
        });
        Self { inner }
    }
}

impl Dict for MetadataDict {
    async fn lookup(&self, user: &str, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        let (user, key) = (user.to_owned(), key.to_owned());
        self.blocking(move |inner| inner.lookup(&user, &key)).await
    }

    async fn iterate(&self, query: IterateQuery) -> Result<Vec<Row>, Failure> {
        self.blocking(move |inner| inner.iterate(&query)).await
    }

    async fn commit(&self, transaction: Transaction) -> Result<Commit, Failure> {
        self.blocking(move |inner| inner.commit(transaction)).await
    }
}

impl MetadataDict {
    /// Runs file operations off the runtime's threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Inner) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let inner = Arc::clone(&self.inner);
        spawn_blocking(move || work(&inner))
            .await
            .unwrap_or_else(|error| Err(Failure::new(error.to_string())))
    }
}

impl Inner {
    fn lookup(&self, user: &str, key: &str) -> Result<Option<Vec<u8>>, Failure> {
        match Kind::parse(key) {
            Kind::Nothing => Ok(None),
            Kind::Known(Key::DeviceTokens) => {
                let Ok(address) = Address::parse(user) else {
                    return Ok(None);
                };
                let tokens = self.store.tokens(&address, self.clock.unix()).map_err(failure)?;
                Ok((!tokens.is_empty()).then(|| tokens.join(" ").into_bytes()))
            }
            Kind::Known(known) => {
                let value = self.announcements.value(known, user, self.clock.unix());
                Ok(value.map(String::into_bytes))
            }
            Kind::Entry => match Address::parse(user) {
                Ok(address) => self.store.entry(&address, key).map_err(failure),
                Err(_) => Ok(None),
            },
        }
    }

    /// Lists only entries of clients. Dovecot unsets all listed keys when it deletes a mailbox, and device tokens,
    /// which belong to every mailbox, have to survive that.
    fn iterate(&self, query: &IterateQuery) -> Result<Vec<Row>, Failure> {
        let Ok(address) = Address::parse(&query.user) else {
            return Ok(Vec::new());
        };
        let keys = self.store.entries(&address, &query.path).map_err(failure)?;
        let mut rows = Vec::new();
        for key in keys {
            let value = match query.without_values() {
                true => Some(Vec::new()),
                false => self.store.entry(&address, &key).map_err(failure)?,
            };
            rows.extend(value.map(|value| Row { key, value }));
        }
        Ok(rows)
    }

    /// Applies a transaction. An entry that cannot be stored is skipped, and the reply is [`Commit::NotFound`]: Dovecot
    /// would report a failure to the client as an error of the server, and log it. Only a malformed token fails,
    /// because the client has to know that it cannot be woken.
    fn commit(&self, transaction: Transaction) -> Result<Commit, Failure> {
        let address = Address::parse(&transaction.user).map_err(failure)?;
        let changes: Vec<Change> = transaction.operations.into_iter().map(change).collect();
        let now = self.clock.unix();
        let mut done = Commit::Done;
        for change in changes {
            let kept = match change {
                Change::AddToken(token) => {
                    let token = std::str::from_utf8(&token)
                        .map_err(|_| StoreError::Malformed)
                        .map_err(failure)?;
                    self.store.add(&address, token, now).map_err(failure)?;
                    metrics::token("set");
                    true
                }
                Change::ClearTokens => {
                    self.store.clear(&address, now).map_err(failure)?;
                    metrics::token("cleared");
                    true
                }
                Change::SetEntry(key, value) => self
                    .store
                    .set_entry(&address, &key, &value, self.limits, now)
                    .map_err(failure)?,
                Change::UnsetEntry(key) => {
                    self.store.unset_entry(&address, &key, now).map_err(failure)?;
                    true
                }
                Change::Nothing => false,
            };
            if !kept {
                done = Commit::NotFound;
            }
        }
        Ok(done)
    }
}

fn change(operation: Operation) -> Change {
    match (Kind::parse(operation.key()), operation) {
        (Kind::Known(Key::DeviceTokens), Operation::Set { value, .. }) => Change::AddToken(value),
        (Kind::Known(Key::DeviceTokens), Operation::Unset { .. }) => Change::ClearTokens,
        (Kind::Entry, Operation::Set { key, value }) => Change::SetEntry(key, value),
        (Kind::Entry, Operation::Unset { key }) => Change::UnsetEntry(key),
        _ => Change::Nothing,
    }
}

fn failure(error: impl std::fmt::Display) -> Failure {
    Failure::new(error.to_string())
}
