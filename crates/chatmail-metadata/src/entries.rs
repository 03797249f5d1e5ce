//! Entries that clients set for themselves (RFC 5464), such as `/private/comment` of a mailbox. They are stored in the
//! account's `metadata.json`, with its device tokens.
//!
//! Their number and size per account are limited. A new entry above the limit evicts the oldest ones: Dovecot reports a
//! rejection only as an internal error.

use std::cmp::Reverse;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use chatmail_core::Address;
use serde_json::{Map, Value, json};

use crate::tokens::{Content, MetadataStore, StoreError};

/// Key of the entries in the file's object.
const KEY: &str = "entries";

/// Limits on the entries of one account.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// Maximum number of entries.
    pub entries: usize,
    /// Maximum size of their keys and values in bytes.
    pub bytes: usize,
}

impl MetadataStore {
    /// Value of an entry; none if it was never set or was evicted.
    pub fn entry(&self, address: &Address, key: &str) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read(address)?.entry(key))
    }

    /// Keys of all entries with this prefix.
    pub fn entries(&self, address: &Address, prefix: &str) -> Result<Vec<String>, StoreError> {
        let content = self.read(address)?;
        let keys = content.entries().map(Map::keys).into_iter().flatten();
        Ok(keys.filter(|key| key.starts_with(prefix)).cloned().collect())
    }

    /// Sets an entry. Returns false and changes nothing if the entry alone exceeds the limits.
    pub fn set_entry(
        &self,
        address: &Address,
        key: &str,
        value: &[u8],
        limits: Limits,
        now: u64,
    ) -> Result<bool, StoreError> {
        if limits.entries == 0 || key.len().saturating_add(value.len()) > limits.bytes {
            return Ok(false);
        }
        if !self.has_account(address) {
            return Err(StoreError::NoAccount);
        }
        self.change(address, now, |content| {
            let entries = content.entries_mut();
            entries.insert(
                key.to_owned(),
                json!({ "value": BASE64.encode(value), "time": now }),
            );
            trim(entries, key, limits);
            true
        })?;
        Ok(true)
    }

    /// Removes an entry if it exists.
    pub fn unset_entry(&self, address: &Address, key: &str, now: u64) -> Result<(), StoreError> {
        // When Dovecot deletes a mailbox, it unsets many entries that were never set.
        if self.entry(address, key)?.is_some() {
            self.change(address, now, |content| {
                content.entries_mut().remove(key).is_some()
            })?;
        }
        Ok(())
    }
}

impl Content {
    fn entries(&self) -> Option<&Map<String, Value>> {
        self.0.get(KEY)?.as_object()
    }

    /// The entries; a value of another type in their place is replaced.
    fn entries_mut(&mut self) -> &mut Map<String, Value> {
        let entries = self.0.entry(KEY).or_insert_with(|| Value::Object(Map::new()));
        if !entries.is_object() {
            *entries = Value::Object(Map::new());
        }
        match entries {
            Value::Object(entries) => entries,
            // Made an object above.
            _ => unreachable!("not an object"),
        }
    }

    fn entry(&self, key: &str) -> Option<Vec<u8>> {
        decode(self.entries()?.get(key)?)
    }
}

fn decode(entry: &Value) -> Option<Vec<u8>> {
    BASE64.decode(entry.get("value")?.as_str()?).ok()
}

/// Keeps `newest` and as many of the most recently set others as fit.
fn trim(entries: &mut Map<String, Value>, newest: &str, limits: Limits) {
    let mut by_age: Vec<(bool, u64, String, usize)> = entries
        .iter()
        .map(|(key, entry)| {
            let time = entry.get("time").and_then(Value::as_u64).unwrap_or(0);
            let bytes = key.len() + decode(entry).map_or(0, |value| value.len());
            (key == newest, time, key.clone(), bytes)
        })
        .collect();
    by_age.sort_by_key(|(is_newest, time, ..)| Reverse((*is_newest, *time)));
    let mut bytes = 0_usize;
    for (index, (_, _, key, size)) in by_age.into_iter().enumerate() {
        bytes = bytes.saturating_add(size);
        if index >= limits.entries || bytes > limits.bytes {
            entries.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatmail_core::MailStore;
    use proptest::prelude::*;
    use std::fs;

    const NOW: u64 = 1_800_000_000;
    const LIMITS: Limits = Limits {
        entries: 3,
        bytes: 100,
    };

    fn store() -> (tempfile::TempDir, MetadataStore, Address) {
        let dir = tempfile::tempdir().unwrap();
        let address = Address::parse("abcdefghi@chat.example.org").unwrap();
        fs::create_dir(dir.path().join(address.as_str())).unwrap();
        let store = MetadataStore::new(MailStore::new(dir.path()));
        (dir, store, address)
    }

    #[test]
    fn entries_are_kept_beside_the_tokens_until_they_are_unset() {
        let (dir, store, address) = store();
        store.add(&address, "token", NOW).unwrap();
        let set = |key, value| store.set_entry(&address, key, value, LIMITS, NOW).unwrap();
        assert!(set("priv/box/comment", b"mine \xff"));
        assert!(set("shared/box/comment", b""));
        assert_eq!(
            store.entry(&address, "priv/box/comment").unwrap().as_deref(),
            Some(&b"mine \xff"[..])
        );
        assert_eq!(
            store.entry(&address, "shared/box/comment").unwrap().as_deref(),
            Some(&b""[..])
        );
        assert_eq!(store.entry(&address, "priv/other/comment").unwrap(), None);
        assert_eq!(
            store.entries(&address, "priv/box/").unwrap(),
            ["priv/box/comment"]
        );
        store.unset_entry(&address, "priv/box/comment", NOW).unwrap();
        store.unset_entry(&address, "priv/box/comment", NOW).unwrap();
        assert_eq!(store.entry(&address, "priv/box/comment").unwrap(), None);
        assert_eq!(store.tokens(&address, NOW).unwrap(), ["token"]);

        let nobody = Address::parse("nobody123@chat.example.org").unwrap();
        store.unset_entry(&nobody, "priv/box/comment", NOW).unwrap();
        store
            .set_entry(&nobody, "priv/box/comment", b"x", LIMITS, NOW)
            .unwrap_err();
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1, "nothing is made");
    }

    #[test]
    fn the_oldest_entry_gives_way() {
        let (_dir, store, address) = store();
        for number in 0..5 {
            let key = format!("priv/box/{number}");
            assert!(
                store
                    .set_entry(&address, &key, b"x", LIMITS, NOW + number)
                    .unwrap()
            );
        }
        assert_eq!(
            store.entries(&address, "").unwrap(),
            ["priv/box/2", "priv/box/3", "priv/box/4"]
        );
        assert!(
            store
                .set_entry(&address, "priv/box/9", &[b'x'; 75], LIMITS, NOW)
                .unwrap()
        );
        assert_eq!(store.entries(&address, "").unwrap(), ["priv/box/4", "priv/box/9"]);
        assert!(
            !store
                .set_entry(&address, "priv/box/9", &[b'x'; 100], LIMITS, NOW)
                .unwrap()
        );
        assert_eq!(store.entry(&address, "priv/box/9").unwrap().unwrap().len(), 75);
    }

    proptest! {
        #[test]
        fn an_account_never_keeps_more_than_it_may(
            sets in prop::collection::vec(("[a-z/]{0,12}", 0_usize..120, 0_u64..3), 0..30),
        ) {
            let (_dir, store, address) = store();
            for (key, length, time) in sets {
                let value = vec![b'x'; length];
                let kept = store.set_entry(&address, &key, &value, LIMITS, NOW + time).unwrap();
                prop_assert_eq!(kept, key.len() + length <= LIMITS.bytes);
                if kept {
                    prop_assert_eq!(store.entry(&address, &key).unwrap(), Some(value));
                }
                let keys = store.entries(&address, "").unwrap();
                let bytes: usize = keys
                    .iter()
                    .map(|key| key.len() + store.entry(&address, key).unwrap().unwrap().len())
                    .sum();
                prop_assert!(keys.len() <= LIMITS.entries && bytes <= LIMITS.bytes);
            }
        }
    }
}
