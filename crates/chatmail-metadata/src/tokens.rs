//! Device tokens of an account, in the file `metadata.json` of its folder.
//!
//! Entries that clients set for themselves are in the same file, see [`crate::entries`].
//!
//! The file is the reference relay's: an object whose key `devicetoken` holds an object of tokens and the Unix time
//! each was last set at. Other keys are kept. Older relays wrote a list of tokens, which becomes an object whose times
//! are those of the migration.

use std::collections::hash_map::RandomState;
use std::fs::{self, File};
use std::hash::BuildHasher as _;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use chatmail_core::{Address, MailStore};
use serde_json::{Map, Value};

/// The file below the account's folder.
pub const FILE: &str = "metadata.json";

const UNFINISHED: &str = ".metadata.json.tmp";

/// Longest token in bytes. Delta Chat sends at most what fits a quoted string of IMAP, 4096 bytes.
pub const MAX_TOKEN: usize = 4096;

/// Most tokens of one account; each device has one, and a new one pushes out the one that was set longest ago.
pub const MAX_TOKENS: usize = 32;

/// Seconds after which a token that no client set again is forgotten.
pub const VALID: u64 = 90 * DAY;

const DAY: u64 = 24 * 60 * 60;

/// How far ahead of this machine's clock a token's time may be, in seconds.
const CLOCK_SKEW: u64 = 60;

/// Largest file that is read. Far above what [`MAX_TOKENS`] tokens need.
const MAX_FILE: u64 = 1024 * 1024;

/// Locks that accounts share. Enough that two accounts seldom wait for each other's disk.
const LOCKS: usize = 64;

const KEY: &str = "devicetoken";

/// Why a token or an entry was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Empty, too long, or with white space or control characters, which would break up lists of tokens.
    #[error("not a device token")]
    Malformed,
    /// There is no such account; nothing is created for it.
    #[error("no such account")]
    NoAccount,
    /// Reading or writing failed; the old file is unchanged.
    #[error("metadata of an account: {0}")]
    Io(#[from] io::Error),
}

/// Device tokens and entries of all accounts. This process is the only one that changes them.
#[derive(Debug)]
pub struct MetadataStore {
    store: MailStore,
    locks: [Mutex<()>; LOCKS],
    hasher: RandomState,
}

impl MetadataStore {
    /// Those of the accounts in `store`.
    pub fn new(store: MailStore) -> Self {
        Self {
            store,
            locks: std::array::from_fn(|_| Mutex::new(())),
            hasher: RandomState::new(),
        }
    }

    /// Valid tokens, those that were set last at the end. What has expired leaves the file.
    pub fn tokens(&self, address: &Address, now: u64) -> Result<Vec<String>, StoreError> {
        let mut content = self.read(address)?;
        if content.migrate(now) {
            content = self.change(address, now, |_| true)?;
        }
        Ok(content.tokens().into_iter().map(|(token, _)| token).collect())
    }

    /// Remembers a token, or that it was set again. Nothing is written for one that was set within the last day.
    pub fn add(&self, address: &Address, token: &str, now: u64) -> Result<(), StoreError> {
        if !is_token(token) {
            return Err(StoreError::Malformed);
        }
        if !self.has_account(address) {
            return Err(StoreError::NoAccount);
        }
        self.change(address, now, |content| content.add(token, now))?;
        Ok(())
    }

    /// Forgets a token, because the notification server says that its device is gone.
    pub fn remove(&self, address: &Address, token: &str, now: u64) -> Result<(), StoreError> {
        self.change(address, now, |content| content.remove(token))?;
        Ok(())
    }

    /// Forgets all tokens.
    pub fn clear(&self, address: &Address, now: u64) -> Result<(), StoreError> {
        self.change(address, now, Content::clear)?;
        Ok(())
    }

    /// Most lookups change nothing and need no lock: the file is only ever replaced whole.
    pub(crate) fn read(&self, address: &Address) -> io::Result<Content> {
        Content::read(self.store.account(address).dir())
    }

    pub(crate) fn has_account(&self, address: &Address) -> bool {
        self.store.account(address).dir().is_dir()
    }

    /// Reads, changes and, if something changed, replaces the file under the account's lock.
    pub(crate) fn change(
        &self,
        address: &Address,
        now: u64,
        change: impl FnOnce(&mut Content) -> bool,
    ) -> Result<Content, StoreError> {
        let lock = usize::try_from(self.hasher.hash_one(address.as_str()) % 64).unwrap_or(0);
        let _guard = self
            .locks
            .get(lock)
            .map(|lock| lock.lock().unwrap_or_else(PoisonError::into_inner));
        let account = self.store.account(address);
        let mut content = Content::read(account.dir())?;
        let migrated = content.migrate(now);
        if change(&mut content) || migrated {
            content.write(account.dir())?;
        }
        Ok(content)
    }
}

/// Whether this can be a token: what goes into lists that are split at white space and into files of lines.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_TOKEN
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The file's object.
#[derive(Debug, Default)]
pub(crate) struct Content(pub(crate) Map<String, Value>);

impl Content {
    /// A file that is missing is empty. So is one that is no object: the reference starts anew then, and the client
    /// sets its token at every connection.
    fn read(dir: &Path) -> io::Result<Self> {
        let file = match File::open(dir.join(FILE)) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE + 1).read_to_end(&mut text)?;
        let content = match serde_json::from_slice(&text) {
            Ok(Value::Object(object)) if text.len() as u64 <= MAX_FILE => Self(object),
            _ => {
                tracing::warn!("a {FILE} is no JSON object or too large, its tokens are forgotten");
                Self::default()
            }
        };
        Ok(content)
    }

    /// Replaces the file. The account's lock is held, so one name for what is not finished is enough, and what a killed
    /// process left behind is overwritten by the next one.
    fn write(&self, dir: &Path) -> io::Result<()> {
        let fresh = dir.join(UNFINISHED);
        let written = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&fresh)
            .and_then(|mut file| {
                file.write_all(&serde_json::to_vec(&self.0)?)?;
                file.sync_data()
            })
            .and_then(|()| fs::rename(&fresh, dir.join(FILE)));
        if written.is_err() {
            // On a full disk the half of it would only be in the way.
            let _ = fs::remove_file(&fresh);
        }
        written
    }

    /// Makes an object of a list, and drops what has expired, is no token, or is too much. Returns whether anything
    /// changed.
    fn migrate(&mut self, now: u64) -> bool {
        let Some(value) = self.0.get_mut(KEY) else {
            return false;
        };
        let tokens = match value {
            Value::Object(tokens) => std::mem::take(tokens),
            Value::Array(list) => {
                let tokens: Map<_, _> = std::mem::take(list)
                    .into_iter()
                    .filter_map(|token| Some((token.as_str()?.to_owned(), Value::from(now))))
                    .collect();
                *value = Value::Object(valid(tokens, now));
                return true;
            }
            _ => {
                self.0.remove(KEY);
                return true;
            }
        };
        let count = tokens.len();
        let tokens = valid(tokens, now);
        let changed = tokens.len() < count;
        *value = Value::Object(tokens);
        changed
    }

    /// Tokens and their times, oldest first.
    fn tokens(&self) -> Vec<(String, u64)> {
        match self.0.get(KEY) {
            Some(Value::Object(tokens)) => by_age(tokens),
            _ => Vec::new(),
        }
    }

    fn add(&mut self, token: &str, now: u64) -> bool {
        let entry = self.0.entry(KEY).or_insert_with(|| Value::Object(Map::new()));
        let Value::Object(tokens) = entry else {
            return false;
        };
        if let Some(time) = tokens.get(token).and_then(seconds)
            && time + DAY > now
        {
            return false;
        }
        tokens.insert(token.to_owned(), Value::from(now));
        *tokens = valid(std::mem::take(tokens), now);
        true
    }

    fn remove(&mut self, token: &str) -> bool {
        match self.0.get_mut(KEY) {
            Some(Value::Object(tokens)) => tokens.remove(token).is_some(),
            _ => false,
        }
    }

    fn clear(&mut self) -> bool {
        self.0.remove(KEY).is_some()
    }
}

/// The newest [`MAX_TOKENS`] of the tokens that are still valid.
fn valid(tokens: Map<String, Value>, now: u64) -> Map<String, Value> {
    let mut tokens = by_age(&tokens);
    tokens.retain(|(token, time)| is_token(token) && time + VALID > now && *time < now + CLOCK_SKEW);
    let surplus = tokens.len().saturating_sub(MAX_TOKENS);
    tokens
        .into_iter()
        .skip(surplus)
        .map(|(token, time)| (token, Value::from(time)))
        .collect()
}

/// Oldest first; of the same age in the order of the file.
fn by_age(tokens: &Map<String, Value>) -> Vec<(String, u64)> {
    let mut tokens: Vec<_> = tokens
        .iter()
        .map(|(token, time)| (token.clone(), seconds(time).unwrap_or(0)))
        .collect();
    tokens.sort_by_key(|(_, time)| *time);
    tokens
}

/// Whole seconds; Python may have written a fraction.
fn seconds(time: &Value) -> Option<u64> {
    time.as_u64().or_else(|| time.as_f64().map(|time| time as u64))
}

#[cfg(test)]
mod tests;
