//! Keys from the DNS: concurrent lookups of the same name share one query, and results are cached.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::proto::rr::{Name, RData};
use moka::Expiry;
use moka::sync::Cache;
use tokio::sync::OnceCell;

use super::record::{Key, Unusable};
use crate::dns::{self, ResolverError, is_label};
use crate::metrics;

/// Retries of a query without an answer.
const QUERY_RETRIES: usize = 2;
/// Maximum number of cached names; the least used are evicted first.
const MAX_NAMES: u64 = 1000;
/// Maximum age of a cached key, whatever its TTL, so that a revoked key stops counting.
const MAX_AGE: Duration = Duration::from_secs(3600);
/// Maximum age of cached records that are not usable keys.
const MAX_BAD_AGE: Duration = Duration::from_secs(10);
/// Maximum number of keys tried at one name: there are two while a domain changes its key.
const MAX_KEYS: usize = 3;
/// Maximum number of records parsed at one name.
const MAX_RECORDS: usize = 10;
/// Maximum length of a name in the DNS (RFC 1035 section 2.3.4), as text.
const MAX_NAME: usize = 253;

/// The result of a lookup.
#[derive(Clone)]
pub(super) enum Found {
    /// Usable keys, at least one.
    Keys(Arc<[Key]>),
    /// There is no usable key; the reason.
    Nothing(Unusable),
    /// The lookup failed temporarily; the reason.
    Failed(Arc<str>),
}

/// The result of the key lookup for each signature of a message, in their order.
pub struct FoundKeys(pub(super) Vec<Found>);

/// Looks up keys.
pub(super) struct Keys {
    resolver: TokioResolver,
    held: Cache<Box<str>, Entry>,
    /// Lookups in progress. Any caller that waits for one drives it.
    asked: Mutex<HashMap<Box<str>, Arc<OnceCell<Entry>>>>,
}

#[derive(Clone)]
struct Entry {
    found: Found,
    valid_until: Instant,
}

struct TimeToLive;

impl Expiry<Box<str>, Entry> for TimeToLive {
    fn expire_after_create(&self, _: &Box<str>, entry: &Entry, now: Instant) -> Option<Duration> {
        let longest = match entry.found {
            Found::Keys(_) => MAX_AGE,
            _ => MAX_BAD_AGE,
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

/// One caller's share in a lookup, which is dropped with its last share.
struct Asking<'a> {
    keys: &'a Keys,
    name: &'a str,
    /// None once this share no longer counts.
    cell: Option<Arc<OnceCell<Entry>>>,
}

impl<'a> Asking<'a> {
    fn join(keys: &'a Keys, name: &'a str) -> Self {
        let mut asked = keys.asked.lock().unwrap_or_else(PoisonError::into_inner);
        let cell = Arc::clone(asked.entry(name.into()).or_default());
        Self {
            keys,
            name,
            cell: Some(cell),
        }
    }

    /// The first caller sends the query; if it is cancelled, the next one does.
    async fn entry(&self) -> Entry {
        match &self.cell {
            Some(cell) => cell.get_or_init(|| self.keys.look_up(self.name)).await.clone(),
            None => self.keys.look_up(self.name).await,
        }
    }
}

impl Drop for Asking<'_> {
    fn drop(&mut self) {
        let mut asked = self.keys.asked.lock().unwrap_or_else(PoisonError::into_inner);
        self.cell = None;
        if asked
            .get(self.name)
            .is_some_and(|cell| Arc::strong_count(cell) == 1)
        {
            asked.remove(self.name);
        }
    }
}

/// The DNS name of a key, if selector and domain form a valid one (RFC 6376 sections 3.1 and 3.5).
pub(super) fn key_name(selector: &str, domain: &str) -> Option<String> {
    if !selector.split('.').all(is_label) {
        return None;
    }
    // An internationalized domain has another form in the DNS.
    let name = format!("{selector}._domainkey.{domain}").to_ascii_lowercase();
    let name = Name::from_str_relaxed(&name).ok()?;
    let name = name.to_ascii();
    (name.len() <= MAX_NAME && name.split('.').all(is_label)).then(|| name + ".")
}

impl Keys {
    /// Queries the resolver at `address`.
    pub(super) fn new(address: SocketAddr) -> Result<Self, ResolverError> {
        // Keys are cached here, and absent keys nowhere, so that a newly published key is found at once.
        let resolver = dns::resolver(address, QUERY_RETRIES)?;
        Ok(Self {
            resolver,
            held: held(),
            asked: Mutex::default(),
        })
    }

    /// Finds the keys at a name from [`key_name`].
    pub(super) async fn find(&self, name: &str) -> Found {
        let entry = self.held.get(name);
        metrics::key(entry.is_some());
        if let Some(entry) = entry {
            return entry.found;
        }
        let entry = Asking::join(self, name).entry().await;
        if !matches!(entry.found, Found::Failed(_)) {
            self.held.insert(name.into(), entry.clone());
        }
        entry.found
    }

    async fn look_up(&self, name: &str) -> Entry {
        let answer = |found, valid_until| Entry { found, valid_until };
        let lookup = match self.resolver.txt_lookup(name).await {
            Ok(lookup) => lookup,
            // Valid for no time, and therefore never cached.
            Err(error) if error.is_no_records_found() => {
                return answer(Found::Nothing("No key in the DNS"), Instant::now());
            }
            Err(error) => return answer(Found::Failed(error.to_string().into()), Instant::now()),
        };
        let mut keys = Vec::new();
        let mut reason = None;
        let records = lookup.answers().iter().filter_map(|record| match &record.data {
            RData::TXT(text) => Some(text.txt_data.concat()),
            _ => None,
        });
        for record in records.take(MAX_RECORDS) {
            match Key::parse(&record) {
                Ok(key) => keys.push(key),
                Err(unusable) => drop(reason.get_or_insert(unusable)),
            }
            if keys.len() == MAX_KEYS {
                break;
            }
        }
        let found = if keys.is_empty() {
            Found::Nothing(reason.unwrap_or("No key in the DNS"))
        } else {
            Found::Keys(keys.into())
        };
        answer(found, lookup.valid_until())
    }
}

fn held() -> Cache<Box<str>, Entry> {
    Cache::builder()
        .max_capacity(MAX_NAMES)
        .expire_after(TimeToLive)
        .build()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_keys() {
        let long = "x".repeat(64);
        assert_eq!(key_name("Mail", "A.test").unwrap(), "mail._domainkey.a.test.");
        assert_eq!(
            key_name("a.b_c-d", "_a.test").unwrap(),
            "a.b_c-d._domainkey._a.test."
        );
        assert_eq!(
            key_name("s", "bücher.test").unwrap(),
            "s._domainkey.xn--bcher-kva.test."
        );
        for selector in [
            "", ".", "a..b", "a.", ".a", "a b", "*", "a\\.b", "ä", "a/b", &long,
        ] {
            assert_eq!(key_name(selector, "a.test"), None, "{selector}");
        }
        for domain in [
            "",
            "a..test",
            "a b.test",
            &format!("{long}.test"),
            &"abc.".repeat(70),
        ] {
            assert_eq!(key_name("s", domain), None, "{domain}");
        }
    }

    #[test]
    fn held_for_the_time_to_live_within_bounds() {
        let now = Instant::now();
        let name = Box::from("x._domainkey.c.test.");
        let age = |found: Found, seconds| {
            let entry = Entry {
                found,
                valid_until: now + Duration::from_secs(seconds),
            };
            TimeToLive
                .expire_after_create(&name, &entry, now)
                .unwrap()
                .as_secs()
        };
        let good = || Found::Keys(Arc::new([]));
        assert_eq!(age(good(), 0), 0);
        assert_eq!(age(good(), 60), 60);
        assert_eq!(age(good(), 1_000_000), 3600);
        assert_eq!(age(Found::Nothing("x"), 1_000_000), 10);
    }

    #[test]
    fn bounded() {
        let cache = held();
        let entry = Entry {
            found: Found::Nothing("x"),
            valid_until: Instant::now() + MAX_AGE,
        };
        for n in 0..5 * MAX_NAMES {
            cache.insert(n.to_string().into(), entry.clone());
        }
        cache.run_pending_tasks();
        assert!(cache.entry_count() <= MAX_NAMES);
    }
}
