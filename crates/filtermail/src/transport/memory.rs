//! Memory of how destinations accept mail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::sync::Cache;

use super::answer::Answer;

/// Time for which mail to a destination without HTTPS goes only over SMTP.
const WITHOUT: Duration = Duration::from_secs(30 * 60);
/// Time for which a destination counts as a relay after it has responded over HTTPS, and as prompt after it has accepted
/// mail.
const KNOWN: Duration = Duration::from_secs(24 * 3600);
/// Time for which mail to a destination that has failed is deferred at once if there is no SMTP, so that its queue does
/// not occupy Postfix. Shorter than the time after which Postfix tries again (`minimal_backoff_time`).
const FAILED: Duration = Duration::from_secs(20);
/// Maximum number of entries in each table.
const MAX_ENTRIES: u64 = 10_000;

/// Remembered properties of destinations.
pub(super) struct Memory {
    /// Destinations without HTTPS, with their mail exchangers.
    without: Table<Arc<[String]>>,
    /// Destinations that have replied over HTTPS, and not failed since.
    relays: Table<()>,
    /// Destinations that have accepted their last message promptly, over HTTPS or SMTP.
    prompt: Table<()>,
    failed: Table<()>,
    /// Hosts to which Postfix could not connect over SMTP.
    unreachable: Table<()>,
}

/// Entries that expire, with the time of each.
struct Table<V> {
    entries: Cache<Box<str>, (Instant, V)>,
    lifetime: Duration,
}

impl<V: Clone + Send + Sync + 'static> Table<V> {
    /// The cache frees the memory of expired entries; the time that callers pass decides which those are.
    fn new(lifetime: Duration) -> Self {
        Self {
            entries: Cache::builder()
                .max_capacity(MAX_ENTRIES)
                .time_to_live(lifetime)
                .build(),
            lifetime,
        }
    }

    fn insert(&self, key: &str, now: Instant, value: V) {
        self.entries.insert(key.into(), (now, value));
    }

    fn get(&self, key: &str, now: Instant) -> Option<(Instant, V)> {
        self.entries
            .get(key)
            .filter(|(since, _)| now.saturating_duration_since(*since) < self.lifetime)
    }

    fn contains(&self, key: &str, now: Instant) -> bool {
        self.get(key, now).is_some()
    }

    /// Removes an entry, and returns whether it was there.
    fn remove(&self, key: &str, now: Instant) -> bool {
        let known = self.contains(key, now);
        self.entries.invalidate(key);
        known
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            without: Table::new(WITHOUT),
            relays: Table::new(KNOWN),
            prompt: Table::new(KNOWN),
            failed: Table::new(FAILED),
            unreachable: Table::new(WITHOUT),
        }
    }
}

impl Memory {
    /// Whether the destination is known to lack HTTPS.
    pub(super) fn is_without(&self, destination: &str, now: Instant) -> bool {
        let Some((since, hosts)) = self.without.get(destination, now) else {
            return false;
        };
        let unreachable = |host: &String| {
            let known = self.unreachable.get(host, now);
            known.is_some_and(|(at, ())| at >= since)
        };
        !hosts.iter().any(unreachable)
    }

    /// Whether the destination has accepted its last message, lately and without delay.
    pub(super) fn is_prompt(&self, destination: &str, now: Instant) -> bool {
        self.prompt.contains(destination, now)
    }

    /// Whether the last delivery to the destination has failed, a moment ago.
    pub(super) fn has_failed(&self, destination: &str, now: Instant) -> bool {
        self.failed.contains(destination, now)
    }

    /// Remembers the result of a delivery.
    ///
    /// A relay that fails once is tried again for the next message, because it may not accept SMTP. A relay that fails
    /// twice, and any other host that fails, counts as a mail server without HTTPS: each further attempt would delay a
    /// message by [`super::https::NO_ANSWER`] where a firewall drops packets to port 443.
    ///
    /// An error of a web server costs no such time, and a sender can cause it with one message for everybody else.
    pub(super) fn note(&self, destination: &str, hosts: &[String], answer: &Answer, now: Instant) {
        if answer.reply().is_some() {
            self.failed.remove(destination, now);
        } else {
            self.failed.insert(destination, now, ());
        }
        match answer {
            Answer::Delivered | Answer::Refused(_) | Answer::Deferred(_) => {
                self.without.remove(destination, now);
                self.relays.insert(destination, now, ());
            }
            Answer::Unavailable => {}
            Answer::Failed if self.relays.remove(destination, now) => {}
            Answer::Failed | Answer::NotOffered => {
                self.relays.remove(destination, now);
                self.without.insert(destination, now, hosts.into());
            }
        }
    }

    /// Remembers whether the destination has accepted mail promptly.
    pub(super) fn answered(&self, destination: &str, accepts: bool, now: Instant) {
        if accepts {
            self.prompt.insert(destination, now, ());
        } else {
            self.prompt.remove(destination, now);
        }
    }

    /// Notes that Postfix cannot connect to a host over SMTP: then it may accept only HTTPS, which may have failed only
    /// temporarily.
    pub(super) fn unreachable(&self, host: &str, now: Instant) {
        self.unreachable.insert(&host.to_ascii_lowercase(), now, ());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reply::Reply;

    fn deferred() -> Answer {
        Answer::Deferred(Reply::TIMEOUT)
    }

    #[test]
    fn destinations_without_https_are_skipped_and_relays_are_not() {
        let (memory, now) = (Memory::default(), Instant::now());
        let hosts = ["mx.test".to_owned()];
        assert!(!memory.is_without("a.test", now));
        memory.note("a.test", &hosts, &Answer::Failed, now);
        assert!(memory.is_without("a.test", now) && !memory.is_without("b.test", now));
        assert!(memory.has_failed("a.test", now) && !memory.has_failed("b.test", now));
        memory.note("a.test", &hosts, &Answer::Delivered, now);
        assert!(!memory.is_without("a.test", now) && !memory.has_failed("a.test", now));

        for second in [Answer::Failed, Answer::NotOffered] {
            memory.note("b.test", &hosts, &deferred(), now);
            memory.note("b.test", &hosts, &Answer::Failed, now);
            assert!(!memory.is_without("b.test", now));
            memory.note("b.test", &hosts, &second, now);
            assert!(memory.is_without("b.test", now));
        }

        memory.unreachable("other.test", now);
        assert!(memory.is_without("b.test", now));
        memory.unreachable("MX.test", now);
        assert!(!memory.is_without("b.test", now));
        // A later attempt over HTTPS fails, too.
        let later = now + Duration::from_secs(60);
        memory.note("b.test", &hosts, &Answer::Failed, later);
        assert!(memory.is_without("b.test", later));
    }

    #[test]
    fn destinations_without_https_are_forgotten_after_half_an_hour() {
        let (memory, now) = (Memory::default(), Instant::now());
        memory.note("a.test", &[], &Answer::NotOffered, now);
        let minutes = |minutes: u64| now + Duration::from_secs(60 * minutes);
        assert!(memory.is_without("a.test", minutes(29)));
        assert!(!memory.is_without("a.test", minutes(30)));
        // The next failure counts from its own time.
        memory.note("a.test", &[], &Answer::Failed, minutes(40));
        assert!(memory.is_without("a.test", minutes(69)) && !memory.is_without("a.test", minutes(70)));

        memory.answered("b.test", true, now);
        assert!(memory.is_prompt("b.test", minutes(24 * 60 - 1)));
        assert!(!memory.is_prompt("b.test", minutes(24 * 60)));
        memory.note("c.test", &[], &Answer::Failed, now);
        let seconds = |seconds: u64| now + Duration::from_secs(seconds);
        assert!(memory.has_failed("c.test", seconds(19)) && !memory.has_failed("c.test", seconds(20)));
    }

    #[test]
    fn temporary_errors_are_not_remembered() {
        let (memory, now) = (Memory::default(), Instant::now());
        for answer in [deferred(), Answer::Unavailable] {
            for _ in 0..3 {
                memory.note("a.test", &[], &answer, now);
                assert!(!memory.is_without("a.test", now), "{answer:?}");
            }
        }
        // One sender can cause an error of the web server with a message; others still use HTTPS.
        memory.note("a.test", &[], &Answer::Failed, now);
        assert!(!memory.is_without("a.test", now));
        memory.note("b.test", &[], &Answer::Failed, now);
        memory.note("b.test", &[], &Answer::Unavailable, now);
        assert!(memory.is_without("b.test", now));
    }

    #[test]
    fn destinations_are_prompt_until_their_mail_is_deferred() {
        let (memory, now) = (Memory::default(), Instant::now());
        assert!(!memory.is_prompt("a.test", now));
        memory.answered("a.test", true, now);
        assert!(memory.is_prompt("a.test", now) && !memory.is_prompt("b.test", now));
        // Over SMTP, too, after HTTPS has failed.
        memory.note("a.test", &[], &Answer::Failed, now);
        assert!(memory.is_prompt("a.test", now));
        memory.answered("a.test", false, now);
        assert!(!memory.is_prompt("a.test", now));
    }

    #[test]
    fn memory_is_bounded() {
        let (memory, now) = (Memory::default(), Instant::now());
        for n in 0..3 * MAX_ENTRIES {
            let name = format!("{n}.test");
            memory.note(&name, &[], &Answer::Delivered, now);
            memory.answered(&name, true, now);
            memory.note(&name, &[], &Answer::NotOffered, now);
            memory.unreachable(&name, now);
        }
        memory.note("relay.test", &[], &Answer::Delivered, now);
        let counts = [
            counted(&memory.without),
            counted(&memory.relays),
            counted(&memory.prompt),
            counted(&memory.failed),
            counted(&memory.unreachable),
        ];
        assert!(counts.iter().all(|count| *count <= MAX_ENTRIES), "{counts:?}");
    }

    fn counted<V: Clone + Send + Sync + 'static>(table: &Table<V>) -> u64 {
        table.entries.run_pending_tasks();
        table.entries.entry_count()
    }
}
