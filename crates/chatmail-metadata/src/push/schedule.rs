//! Decides which notification is sent next, without files, sockets or a clock.
//!
//! Each device with new messages has one entry, however many messages have arrived: further messages merge into a
//! waiting entry. While a request is in progress, they are kept for another request, since the device may already have
//! fetched its messages. Accounts take turns, and neither one account nor failed notifications can take all requests.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;

use super::turns::{Key, Lane, Turns};

/// How long the first request waits for more messages, so that a burst becomes one request.
pub(super) const MERGE: Duration = Duration::from_millis(250);

/// A failed request is repeated after 8, 8², 8³ and 8⁴ seconds.
pub(super) const BASE_DELAY: u64 = 8;

/// Failures after which a notification is dropped; the next delay would exceed [`DEADLINE`].
const MAX_FAILURES: u32 = 5;

/// Seconds after the message at which its notification is no longer useful.
pub(super) const DEADLINE: u64 = 5 * 60 * 60;

/// Seconds by which a message may be newer than the notification into which it merges before the stored time is
/// updated.
const SAME_TIME: u64 = 60;

/// Limits of the schedule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Requests at once.
    pub requests: usize,
    /// Requests at once that repeat a failed one.
    pub repeats: usize,
    /// Requests at once for one account.
    pub per_account: usize,
    /// Entries in memory; more notifications stay on disk until there is room.
    pub entries: usize,
}

/// What to do with a message for a device.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Offer {
    /// Nothing: a stored notification covers it.
    Merged,
    /// Store a notification, then [`Schedule::insert`] it.
    Store,
}

/// The outcome of [`Schedule::insert`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Inserted<I> {
    /// The notification will be sent. A stored one that it replaces can be discarded.
    Taken(Option<I>),
    /// An entry covers the notification, so it can be discarded.
    Covered,
    /// There is no room; the notification stays where it is.
    Full,
}

/// A request to make.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Job<I> {
    /// For [`Schedule::finish`].
    pub(super) key: Key,
    /// Where the notification is stored.
    pub(super) item: I,
}

/// The end of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// The device was notified, or there was nothing to send.
    Done,
    /// The device does not exist any more, so its other notifications are dropped.
    Gone,
    /// The request failed and is repeated, after the delay that the server asked for if it did.
    Failed(Option<Duration>),
}

/// What remains to do after [`Schedule::finish`].
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Finished<I> {
    /// Stored notifications that can be discarded.
    pub(super) discard: Vec<I>,
    /// Whether a notification was dropped after too many failures.
    pub(super) given_up: bool,
}

#[derive(Debug)]
struct Entry<I> {
    item: I,
    /// Unix time of the newest message that it covers.
    start: u64,
    failures: u32,
    /// After a failure, the earliest time of the next request.
    earliest: Instant,
    state: State,
    /// A notification that arrived during a request.
    next: Option<(I, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting(Instant),
    Ready,
    Sending(Lane),
}

/// All notifications in memory; `I` identifies where one is stored.
#[derive(Debug)]
pub(super) struct Schedule<I> {
    limits: Limits,
    entries: HashMap<Key, Entry<I>>,
    waiting: BTreeSet<(Instant, Key)>,
    turns: Turns,
}

impl<I: Clone + PartialEq> Schedule<I> {
    /// An empty schedule.
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            entries: HashMap::new(),
            waiting: BTreeSet::new(),
            turns: Turns::new(limits.requests, limits.repeats, limits.per_account),
            limits,
        }
    }

    /// Whether there are no notifications.
    #[cfg(test)]
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Number of notifications.
    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether half of the room is free, so that it is worth loading more from disk.
    pub(super) fn has_room(&self) -> bool {
        self.entries.len() <= self.limits.entries / 2
    }

    /// Offers a message for a device; `start` is its Unix time.
    pub(super) fn offer(&mut self, key: Key, start: u64, now: Instant) -> Offer {
        let Some(entry) = self.entries.get_mut(&key) else {
            return Offer::Store;
        };
        let recent = |stored: u64| start.saturating_sub(stored) < SAME_TIME;
        let merged = match (entry.state, &entry.next) {
            (State::Sending(_), Some((_, stored))) => recent(*stored),
            (State::Sending(_), None) => false,
            (State::Waiting(_) | State::Ready, _) => recent(entry.start),
        };
        if !merged {
            return Offer::Store;
        }
        self.hurry(key, now);
        Offer::Merged
    }

    /// Inserts a stored notification, of a new message or found on disk.
    pub(super) fn insert(&mut self, key: Key, item: I, start: u64, now: Instant) -> Inserted<I> {
        let Some(entry) = self.entries.get_mut(&key) else {
            if self.entries.len() >= self.limits.entries {
                return Inserted::Full;
            }
            self.add(key, item, start, now);
            return Inserted::Taken(None);
        };
        if entry.item == item || entry.next.as_ref().is_some_and(|(next, _)| *next == item) {
            return Inserted::Taken(None);
        }
        if let State::Sending(_) = entry.state {
            return match &entry.next {
                Some((_, stored)) if *stored > start => Inserted::Covered,
                _ => Inserted::Taken(entry.next.replace((item, start)).map(|(old, _)| old)),
            };
        }
        if entry.start > start {
            return Inserted::Covered;
        }
        entry.start = start;
        let old = std::mem::replace(&mut entry.item, item);
        self.hurry(key, now);
        Inserted::Taken(Some(old))
    }

    /// Returns the next request that may be sent now.
    pub(super) fn next(&mut self, now: Instant) -> Option<Job<I>> {
        while let Some(&(due, key)) = self.waiting.first()
            && due <= now
        {
            self.waiting.pop_first();
            if let Some(entry) = self.entries.get_mut(&key) {
                entry.state = State::Ready;
                let lane = if entry.failures == 0 {
                    Lane::First
                } else {
                    Lane::Repeat
                };
                self.turns.add(lane, key);
            }
        }
        let (lane, key) = self.turns.take()?;
        let entry = self.entries.get_mut(&key)?;
        entry.state = State::Sending(lane);
        Some(Job {
            key,
            item: entry.item.clone(),
        })
    }

    /// The next time at which [`Self::next`] may return a request without another event.
    pub(super) fn wake_at(&self) -> Option<Instant> {
        self.waiting.first().map(|(due, _)| *due)
    }

    /// Ends a request; `unix` is the Unix time.
    pub(super) fn finish(&mut self, key: Key, end: End, now: Instant, unix: u64) -> Finished<I> {
        let mut finished = Finished {
            discard: Vec::new(),
            given_up: false,
        };
        let Some(mut entry) = self.entries.remove(&key) else {
            return finished;
        };
        if let State::Sending(lane) = entry.state {
            self.turns.release(lane, key.account);
        }
        match (end, entry.next.take()) {
            (End::Done, None) => finished.discard.push(entry.item),
            (End::Done, Some((item, start))) => {
                finished.discard.push(entry.item);
                self.add(key, item, start, now);
            }
            (End::Gone, next) => {
                finished.discard.push(entry.item);
                finished.discard.extend(next.map(|(item, _)| item));
            }
            (End::Failed(asked), next) => {
                if let Some((item, start)) = next {
                    finished.discard.push(std::mem::replace(&mut entry.item, item));
                    entry.start = start;
                    entry.failures = 0;
                }
                let delay = match asked {
                    // A delay that the server asks for does not count as another failure.
                    Some(asked) => {
                        entry.failures = entry.failures.max(1);
                        asked.max(Duration::from_secs(1))
                    }
                    None => {
                        entry.failures += 1;
                        Duration::from_secs(BASE_DELAY.saturating_pow(entry.failures))
                    }
                };
                let beyond = unix.saturating_add(delay.as_secs()) > entry.start.saturating_add(DEADLINE);
                if beyond || entry.failures >= MAX_FAILURES {
                    finished.discard.push(entry.item);
                    finished.given_up = true;
                    return finished;
                }
                entry.earliest = now + asked.unwrap_or(Duration::from_secs(BASE_DELAY)).min(delay);
                self.wait(key, now + delay, entry);
            }
        }
        finished
    }

    /// Where the notification of an entry is stored, so that it can be moved.
    pub(super) fn item_mut(&mut self, key: Key) -> Option<&mut I> {
        self.entries.get_mut(&key).map(|entry| &mut entry.item)
    }

    /// All notifications, including those that arrived during requests.
    pub(super) fn items(&self) -> impl Iterator<Item = &I> {
        self.entries
            .values()
            .flat_map(|entry| [Some(&entry.item), entry.next.as_ref().map(|(item, _)| item)])
            .flatten()
    }

    fn add(&mut self, key: Key, item: I, start: u64, now: Instant) {
        let entry = Entry {
            item,
            start,
            failures: 0,
            earliest: now,
            state: State::Ready,
            next: None,
        };
        self.wait(key, now + MERGE, entry);
    }

    fn wait(&mut self, key: Key, due: Instant, mut entry: Entry<I>) {
        entry.state = State::Waiting(due);
        self.waiting.insert((due, key));
        self.entries.insert(key, entry);
    }

    /// Shortens the delay after failures for a new message.
    fn hurry(&mut self, key: Key, now: Instant) {
        let Some(entry) = self.entries.get_mut(&key) else {
            return;
        };
        if let State::Waiting(due) = entry.state
            && entry.failures > 0
        {
            entry.failures = 1;
            let sooner = due.min(entry.earliest.max(now));
            entry.state = State::Waiting(sooner);
            self.waiting.remove(&(due, key));
            self.waiting.insert((sooner, key));
        }
    }
}

#[cfg(test)]
mod tests;
