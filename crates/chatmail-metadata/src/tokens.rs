//! Device tokens of an account, in the file `metadata.json` of its folder.
//!
//! The same file contains entries that clients set for themselves, see [`crate::entries`].
//!
//! The format is that of the reference relay: in an object, the key `devicetoken` contains an object of tokens with the
//! Unix times at which they were last set. Other keys are preserved. Older relays wrote a list of tokens; it is
//! converted to an object with the time of the conversion.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher as _;
use std::io::{self, Read as _};
use std::path::Path;
use std::sync::{Mutex, PoisonError};

use chatmail_core::replace::Replacement;
use chatmail_core::{Address, MailStore};
use serde_json::{Map, Value};

/// Name of the file in the account's folder.
pub const FILE: &str = "metadata.json";

const UNFINISHED: &str = ".metadata.json.tmp";

/// Maximum length of a token in bytes. Delta Chat sends tokens as quoted strings of IMAP, of at most 4096 bytes.
pub const MAX_TOKEN: usize = 4096;

/// Maximum number of tokens of one account. Each device has one; a new token evicts the oldest one.
pub const MAX_TOKENS: usize = 32;

/// Seconds after which a token expires unless a client sets it again.
pub const VALID: u64 = 90 * DAY;

const DAY: u64 = 24 * 60 * 60;

/// Seconds by which the time of a token may be ahead of this machine's clock.
const CLOCK_SKEW: u64 = 60;

/// Maximum size of the file, far more than [`MAX_TOKENS`] tokens need.
const MAX_FILE: u64 = 1024 * 1024;

/// Number of locks that accounts share: enough that two accounts seldom wait for each other.
const LOCKS: usize = 64;

const KEY: &str = "devicetoken";

/// Why a token or an entry was not stored.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The token is empty, too long, or contains white space or control characters, which separate tokens in lists.
    #[error("not a device token")]
    Malformed,
    /// The account does not exist; nothing is created for it.
    #[error("no such account")]
    NoAccount,
    /// Reading or writing failed; the old file is unchanged.
    #[error("cannot read or write the metadata of an account: {0}")]
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
    /// Metadata of the accounts in `store`.
    pub fn new(store: MailStore) -> Self {
        Self {
            store,
            locks: std::array::from_fn(|_| Mutex::new(())),
            hasher: RandomState::new(),
        }
    }

    /// Valid tokens, the most recently set at the end. Expired tokens are removed from the file.
    pub fn tokens(&self, address: &Address, now: u64) -> Result<Vec<String>, StoreError> {
        let mut content = self.read(address)?;
        if content.migrate(now) {
            content = self.change(address, now, |_| true)?;
        }
        Ok(content.tokens().into_iter().map(|(token, _)| token).collect())
    }

    /// Stores a token, or the time at which it was set again. Writes nothing if it was set within the last day.
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

    /// Removes a token, because the notification server reports that its device is gone.
    pub fn remove(&self, address: &Address, token: &str, now: u64) -> Result<(), StoreError> {
        self.change(address, now, |content| content.remove(token))?;
        Ok(())
    }

    /// Removes all tokens.
    pub fn clear(&self, address: &Address, now: u64) -> Result<(), StoreError> {
        self.change(address, now, Content::clear)?;
        Ok(())
    }

    /// Reads the file without a lock, since it is only replaced atomically.
    pub(crate) fn read(&self, address: &Address) -> io::Result<Content> {
        Content::read(self.store.account(address).dir())
    }

    pub(crate) fn has_account(&self, address: &Address) -> bool {
        self.store.account(address).dir().is_dir()
    }

    /// Under the account's lock, reads the file, changes its content, and replaces it if the content has changed.
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

/// Whether a text can be a token, which is written to lists split at white space and to files of lines.
pub(crate) fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text.len() <= MAX_TOKEN
        && !text.contains(|c: char| c.is_whitespace() || c.is_control())
}

/// The file's object.
#[derive(Debug, Default)]
pub(crate) struct Content(pub(crate) Map<String, Value>);

impl Content {
    /// Reads the file. A missing file is empty. So is one that is not an object: the reference relay does the same, and
    /// clients set their tokens at every connection.
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
                tracing::warn!("a {FILE} is not a JSON object or is too large; its tokens are discarded");
                Self::default()
            }
        };
        Ok(content)
    }

    /// Replaces the file. Since the account's lock is held, one name for unfinished files is enough; the next process
    /// overwrites a file that a killed one left.
    fn write(&self, dir: &Path) -> io::Result<()> {
        Replacement::with_mode(0o600)
            .through(dir.join(UNFINISHED))
            .name_synced_later()
            .write(&dir.join(FILE), &serde_json::to_vec(&self.0)?)
    }

    /// Converts a list to an object, and drops tokens that have expired, are malformed or exceed the maximum. Returns
    /// whether anything has changed.
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

/// Tokens by age, oldest first; those of the same age in the order of the file.
fn by_age(tokens: &Map<String, Value>) -> Vec<(String, u64)> {
    let mut tokens: Vec<_> = tokens
        .iter()
        .map(|(token, time)| (token.clone(), seconds(time).unwrap_or(0)))
        .collect();
    tokens.sort_by_key(|(_, time)| *time);
    tokens
}

/// Seconds; Python may have written a fraction.
fn seconds(time: &Value) -> Option<u64> {
    time.as_u64().or_else(|| time.as_f64().map(|time| time as u64))
}

#[cfg(test)]
mod tests;
