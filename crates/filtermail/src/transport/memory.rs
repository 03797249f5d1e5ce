//! Memory of how destinations accept mail.

use std::sync::Arc;
use std::time::{Duration, Instant};

use moka::ops::compute::Op;
use moka::sync::Cache;

use super::answer::Answer;
use super::hosts::Destination;

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
/// Prompt destinations of one owner. Postfix delivers to one destination over at most 20 connections, so that an owner of
/// a thousand domains, all of which stop answering, holds less than half of the default `connections.remoteDelivery`.
const PROMPT_OF_OWNER: usize = 6;

/// Remembered properties of destinations.
pub(super) struct Memory {
    /// Destinations without HTTPS, with their mail exchangers.
    without: Table<Arc<[String]>>,
    /// Destinations that have replied over HTTPS, and not failed since.
    relays: Table<()>,
    /// Destinations that have accepted their last message promptly, over HTTPS or SMTP.
    prompt: Prompt,
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

/// Prompt destinations by owner, with the time at which each has last accepted a message.
struct Prompt(Cache<Box<str>, PromptOfOwner>);

type PromptOfOwner = Arc<[(Box<str>, Instant)]>;

impl Prompt {
    fn new() -> Self {
        Self(
            Cache::builder()
                .weigher(|_, of_owner: &PromptOfOwner| of_owner.len() as u32)
                .max_capacity(MAX_ENTRIES)
                .time_to_live(KNOWN)
                .build(),
        )
    }

    fn contains(&self, destination: &Destination, now: Instant) -> bool {
        let of_owner = self.0.get(destination.owner().as_str());
        of_owner.is_some_and(|of_owner| {
            of_owner.iter().any(|(name, since)| {
                **name == *destination.name() && now.saturating_duration_since(*since) < KNOWN
            })
        })
    }

    /// Remembers a destination if its owner has a place for it, or forgets it. Nobody loses a place by accepting mail:
    /// otherwise an owner could pass the places on while messages to those that had them still wait for replies.
    fn set(&self, destination: &Destination, prompt: bool, now: Instant) {
        let name = destination.name();
        self.0
            .entry(destination.owner().into())
            .and_compute_with(|known| {
                let mut of_owner = known.map_or_else(Vec::new, |known| known.into_value().to_vec());
                of_owner.retain(|(other, since)| {
                    **other != *name && now.saturating_duration_since(*since) < KNOWN
                });
                if prompt && of_owner.len() < PROMPT_OF_OWNER {
                    of_owner.push((name.into(), now));
                }
                if of_owner.is_empty() {
                    Op::Remove
                } else {
                    Op::Put(of_owner.into())
                }
            });
    }
}

impl Default for Memory {
    fn default() -> Self {
        Self {
            without: Table::new(WITHOUT),
            relays: Table::new(KNOWN),
            prompt: Prompt::new(),
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
    pub(super) fn is_prompt(&self, destination: &Destination, now: Instant) -> bool {
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
    pub(super) fn answered(&self, destination: &Destination, accepts: bool, now: Instant) {
        self.prompt.set(destination, accepts, now);
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

    fn destination(name: &str) -> Destination {
        Destination::of(&format!("@{name}")).unwrap()
    }

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

        let prompt = destination("b.test");
        memory.answered(&prompt, true, now);
        assert!(memory.is_prompt(&prompt, minutes(24 * 60 - 1)));
        assert!(!memory.is_prompt(&prompt, minutes(24 * 60)));
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
        let (a, b) = (destination("a.test"), destination("b.test"));
        assert!(!memory.is_prompt(&a, now));
        memory.answered(&a, true, now);
        assert!(memory.is_prompt(&a, now) && !memory.is_prompt(&b, now));
        // Over SMTP, too, after HTTPS has failed.
        memory.note("a.test", &[], &Answer::Failed, now);
        assert!(memory.is_prompt(&a, now));
        memory.answered(&a, false, now);
        assert!(!memory.is_prompt(&a, now));
    }

    #[test]
    fn few_destinations_of_one_owner_are_prompt() {
        let (memory, now) = (Memory::default(), Instant::now());
        let relay = destination("relay.test");
        memory.answered(&relay, true, now);
        let of_owner: Vec<_> = (0..750)
            .map(|number| destination(&format!("{number}.owner.test")))
            .collect();
        let prompt = || -> Vec<usize> {
            let those = of_owner.iter().enumerate();
            let those = those.filter(|(_, one)| memory.is_prompt(one, now));
            those.map(|(number, _)| number).collect()
        };
        for one in &of_owner {
            memory.answered(one, true, now);
        }
        assert_eq!(prompt(), [0, 1, 2, 3, 4, 5]);
        assert!(memory.is_prompt(&relay, now));

        // Who fails, or has not accepted mail for a day, leaves a place.
        memory.answered(&of_owner[2], false, now);
        for number in [744, 745, 2] {
            memory.answered(&of_owner[number], true, now);
        }
        assert_eq!(prompt(), [0, 1, 3, 4, 5, 744]);
        let later = now + KNOWN;
        memory.answered(&of_owner[745], true, later);
        assert!(memory.is_prompt(&of_owner[745], later) && !memory.is_prompt(&of_owner[0], later));
    }

    #[test]
    fn memory_is_bounded() {
        let (memory, now) = (Memory::default(), Instant::now());
        for n in 0..3 * MAX_ENTRIES {
            let name = format!("{n}.test");
            memory.note(&name, &[], &Answer::Delivered, now);
            memory.answered(&destination(&name), true, now);
            memory.answered(&destination(&format!("x.{name}")), true, now);
            memory.note(&name, &[], &Answer::NotOffered, now);
            memory.unreachable(&name, now);
        }
        memory.note("relay.test", &[], &Answer::Delivered, now);
        let counts = [
            counted(&memory.without.entries),
            counted(&memory.relays.entries),
            counted(&memory.prompt.0),
            counted(&memory.failed.entries),
            counted(&memory.unreachable.entries),
        ];
        assert!(counts.iter().all(|count| *count <= MAX_ENTRIES), "{counts:?}");
    }

    fn counted<V: Clone + Send + Sync + 'static>(cache: &Cache<Box<str>, V>) -> u64 {
        cache.run_pending_tasks();
        cache.weighted_size()
    }
}
