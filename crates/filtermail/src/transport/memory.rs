//! Memory of destinations that accept no mail over HTTPS.

use std::sync::Arc;
use std::time::Duration;

use moka::sync::Cache;

use super::answer::Answer;

/// Time for which mail to a destination without HTTPS goes only over SMTP.
const WITHOUT: Duration = Duration::from_secs(30 * 60);
/// Time for which a destination counts as a relay after it has responded over HTTPS.
const RELAY: Duration = Duration::from_secs(24 * 3600);
/// Time for which mail to a destination that has failed is deferred at once if there is no SMTP, so that its queue does
/// not occupy Postfix. Shorter than the time after which Postfix tries again (`minimal_backoff_time`).
const FAILED: Duration = Duration::from_secs(20);
/// Maximum number of destinations in each table.
const MAX_DESTINATIONS: u64 = 10_000;

/// Remembered properties of destinations.
pub(super) struct Memory {
    /// Destinations without HTTPS, with their mail exchangers.
    without: Cache<Box<str>, Arc<[String]>>,
    /// Destinations that have replied over HTTPS, and not failed since.
    relays: Cache<Box<str>, ()>,
    failed: Cache<Box<str>, ()>,
}

fn table<V: Clone + Send + Sync + 'static>(time: Duration) -> Cache<Box<str>, V> {
    Cache::builder()
        .max_capacity(MAX_DESTINATIONS)
        .time_to_live(time)
        .build()
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            without: table(WITHOUT),
            relays: table(RELAY),
            failed: table(FAILED),
        }
    }
}

impl Memory {
    /// Whether the destination is known to lack HTTPS.
    pub(super) fn is_without(&self, destination: &str) -> bool {
        self.without.contains_key(destination)
    }

    /// Whether the last delivery to the destination has failed, a moment ago.
    pub(super) fn has_failed(&self, destination: &str) -> bool {
        self.failed.contains_key(destination)
    }

    /// Remembers the result of a delivery.
    ///
    /// A relay that fails once is tried again for the next message, because it may not accept SMTP. A relay that fails
    /// twice, and any other host that fails, counts as a mail server without HTTPS: each further attempt would delay a
    /// message by [`super::https::NO_ANSWER`] where a firewall drops packets to port 443.
    pub(super) fn note(&self, destination: &str, hosts: &[String], answer: &Answer) {
        match answer {
            Answer::Failed | Answer::NotOffered => self.failed.insert(destination.into(), ()),
            _ => self.failed.invalidate(destination),
        }
        match answer {
            Answer::Delivered | Answer::Refused(_) | Answer::Deferred(_) => {
                self.without.invalidate(destination);
                self.relays.insert(destination.into(), ());
            }
            Answer::Failed if self.relays.remove(destination).is_some() => {}
            Answer::Failed | Answer::NotOffered => {
                self.relays.invalidate(destination);
                self.without.insert(destination.into(), hosts.into());
            }
        }
    }

    /// Forgets that a host has no HTTPS, because Postfix cannot connect to it over SMTP either: it may accept only
    /// HTTPS, and may have failed only temporarily.
    pub(super) fn unreachable(&self, host: &str) {
        for (destination, hosts) in &self.without {
            if hosts.iter().any(|known| known.eq_ignore_ascii_case(host)) {
                self.without.invalidate(&*destination);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations_without_https_are_skipped_and_relays_are_not() {
        let memory = Memory::default();
        let hosts = ["mx.test".to_owned()];
        assert!(!memory.is_without("a.test"));
        memory.note("a.test", &hosts, &Answer::Failed);
        assert!(memory.is_without("a.test") && !memory.is_without("b.test"));
        assert!(memory.has_failed("a.test") && !memory.has_failed("b.test"));
        memory.note("a.test", &hosts, &Answer::Delivered);
        assert!(!memory.is_without("a.test") && !memory.has_failed("a.test"));

        for second in [Answer::Failed, Answer::NotOffered] {
            memory.note("b.test", &hosts, &Answer::Deferred(crate::reply::Reply::TIMEOUT));
            memory.note("b.test", &hosts, &Answer::Failed);
            assert!(!memory.is_without("b.test"));
            memory.note("b.test", &hosts, &second);
            assert!(memory.is_without("b.test"));
        }

        memory.unreachable("other.test");
        assert!(memory.is_without("b.test"));
        memory.unreachable("MX.test");
        assert!(!memory.is_without("b.test"));
    }

    #[test]
    fn memory_is_bounded() {
        let memory = Memory::default();
        for n in 0..3 * MAX_DESTINATIONS {
            memory.note(&format!("{n}.test"), &[], &Answer::NotOffered);
        }
        memory.without.run_pending_tasks();
        assert!(memory.without.entry_count() <= MAX_DESTINATIONS);
    }
}
