//! Keys that were looked up lately.

use std::borrow::Borrow;
use std::hash::Hash;
use std::time::{Duration, Instant};

use mail_auth::{ResolverCache, Txt};
use moka::Expiry;
use moka::sync::Cache;

use crate::metrics;

/// Keys held at most; the least used go first.
const MAX_KEYS: u64 = 1000;
/// Longest time that a key is held, whatever its record says: a revoked key stops counting.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Longest time that a record which is no key is held.
const MAX_BAD_AGE: Duration = Duration::from_secs(10);

/// A bounded store of key records, each held no longer than its time to live. A name without a record is never held.
pub struct KeyCache {
    keys: Cache<Box<str>, Entry>,
}

#[derive(Clone)]
struct Entry {
    record: Txt,
    valid_until: Instant,
}

struct TimeToLive;

impl Expiry<Box<str>, Entry> for TimeToLive {
    fn expire_after_create(&self, _: &Box<str>, entry: &Entry, now: Instant) -> Option<Duration> {
        let longest = if matches!(entry.record, Txt::Error(_)) {
            MAX_BAD_AGE
        } else {
            MAX_AGE
        };
        Some(entry.valid_until.saturating_duration_since(now).min(longest))
    }

    fn expire_after_update(
        &self,
        key: &Box<str>,
        entry: &Entry,
        now: Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        self.expire_after_create(key, entry, now)
    }
}

impl KeyCache {
    pub(crate) fn new() -> Self {
        Self {
            keys: Cache::builder()
                .max_capacity(MAX_KEYS)
                .expire_after(TimeToLive)
                .build(),
        }
    }
}

impl ResolverCache<Box<str>, Txt> for KeyCache {
    fn get<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        let entry = self.keys.get(name);
        metrics::key(entry.is_some());
        entry.map(|entry| entry.record)
    }

    fn remove<Q>(&self, name: &Q) -> Option<Txt>
    where
        Box<str>: Borrow<Q>,
        Q: Hash + Eq + ?Sized,
    {
        self.keys.remove(name).map(|entry| entry.record)
    }

    fn insert(&self, key: Box<str>, record: Txt, valid_until: Instant) {
        self.keys.insert(key, Entry { record, valid_until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use mail_auth::{DnsError, Error};

    fn entry(record: Txt, seconds: u64, now: Instant) -> Entry {
        Entry {
            record,
            valid_until: now + Duration::from_secs(seconds),
        }
    }

    #[test]
    fn held_for_the_time_to_live_within_bounds() {
        let now = Instant::now();
        let key = Box::from("x._domainkey.c.test.");
        let age = |entry| {
            TimeToLive
                .expire_after_create(&key, &entry, now)
                .unwrap()
                .as_secs()
        };
        let good = || {
            use mail_auth::common::parse::TxtRecordParser as _;
            Txt::Dmarc(
                mail_auth::dmarc::Dmarc::parse(b"v=DMARC1; p=none")
                    .unwrap()
                    .into(),
            )
        };
        let bad = || Txt::Error(Error::Dns(DnsError::InvalidRecordType));
        assert_eq!(age(entry(good(), 0, now)), 0);
        assert_eq!(age(entry(good(), 60, now)), 60);
        assert_eq!(age(entry(good(), 1_000_000, now)), 3600);
        assert_eq!(age(entry(bad(), 1_000_000, now)), 10);
    }

    #[test]
    fn bounded() {
        let cache = KeyCache::new();
        let valid_until = Instant::now() + MAX_AGE;
        for n in 0..5 * MAX_KEYS {
            cache.insert(n.to_string().into(), Txt::Error(Error::NotAligned), valid_until);
        }
        cache.keys.run_pending_tasks();
        assert!(cache.keys.entry_count() <= MAX_KEYS);
    }
}
