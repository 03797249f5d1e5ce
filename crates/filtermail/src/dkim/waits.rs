//! Limits on messages that wait for name servers that do not answer.
//!
//! A message that waits for its key occupies a connection of the filter and a process of Postfix. Most keys arrive
//! within a fraction of a second; a name server that is slow on purpose must not delay the mail of others.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use moka::sync::Cache;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

use crate::dns::group;

/// How long every message may wait without a place.
const QUICK: Duration = Duration::from_millis(500);
/// Longest wait for all keys of a message. Postfix waits 180 s for the whole pass (`smtpd_proxy_timeout`).
const PATIENCE: Duration = Duration::from_secs(20);
/// How long a group of domains counts as slow: its messages wait only if there is a place.
const SLOW: Duration = Duration::from_secs(60);
/// Maximum number of groups that count as slow.
const MAX_SLOW: u64 = 10_000;
/// Divisor of the number of places: the result is the share of one group of domains.
const GROUP_SHARE: usize = 5;
/// Places for large messages, only a few of which are in memory at once.
const LARGE_PLACES: usize = 2;

/// Places in which messages wait longer than [`QUICK`].
pub(super) struct Waits {
    all: Arc<Semaphore>,
    large: Arc<Semaphore>,
    per_group: usize,
    groups: Mutex<HashMap<Box<str>, usize>>,
    slow: Cache<Box<str>, ()>,
}

/// The outcome of a wait.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Waited<T> {
    /// The future has completed.
    Done(T),
    /// The future took longer than [`PATIENCE`].
    TimedOut,
    /// No place was free.
    Full,
}

/// One place.
struct Place<'a> {
    waits: &'a Waits,
    group: Box<str>,
    _permits: (OwnedSemaphorePermit, Option<OwnedSemaphorePermit>),
}

impl Waits {
    /// Provides this many places.
    pub(super) fn new(places: usize) -> Self {
        Self {
            all: Arc::new(Semaphore::new(places)),
            large: Arc::new(Semaphore::new(LARGE_PLACES.min(places))),
            per_group: places.div_ceil(GROUP_SHARE),
            groups: Mutex::default(),
            slow: Cache::builder().max_capacity(MAX_SLOW).time_to_live(SLOW).build(),
        }
    }

    /// Waits for a lookup for `domain`.
    pub(super) async fn wait<T>(
        &self,
        domain: &str,
        large: bool,
        arrives: impl Future<Output = T>,
    ) -> Waited<T> {
        let group = group(domain);
        let mut arrives = std::pin::pin!(arrives);
        if !self.slow.contains_key(group) {
            if let Ok(arrived) = timeout(QUICK, &mut arrives).await {
                return Waited::Done(arrived);
            }
            self.slow.insert(group.into(), ());
        }
        let Some(_place) = self.place(group, large) else {
            // A completed lookup needs no wait.
            let at_once = timeout(Duration::ZERO, arrives).await;
            return at_once.map_or(Waited::Full, Waited::Done);
        };
        match timeout(PATIENCE, arrives).await {
            Ok(arrived) => {
                self.slow.invalidate(group);
                Waited::Done(arrived)
            }
            Err(_) => Waited::TimedOut,
        }
    }

    fn place(&self, group: &str, large: bool) -> Option<Place<'_>> {
        let all = Arc::clone(&self.all).try_acquire_owned().ok()?;
        let of_large = if large {
            Some(Arc::clone(&self.large).try_acquire_owned().ok()?)
        } else {
            None
        };
        let mut groups = self.groups.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = groups.entry(group.into()).or_insert(0);
        if *taken == self.per_group {
            return None;
        }
        *taken += 1;
        Some(Place {
            waits: self,
            group: group.into(),
            _permits: (all, of_large),
        })
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        let mut groups = self.waits.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut taken) = groups.entry(std::mem::take(&mut self.group)) {
            *taken.get_mut() -= 1;
            if *taken.get() == 0 {
                taken.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::future::{pending, ready};
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn those_without_a_place_leave_early() {
        let waits = Arc::new(Waits::new(10));
        let begin = Instant::now();
        let wait = |domain: String, large| {
            let waits = Arc::clone(&waits);
            tokio::spawn(async move {
                let outcome = waits.wait(&domain, large, pending::<()>()).await;
                (outcome, begin.elapsed().as_millis())
            })
        };
        let mut one_hand = Vec::new();
        for n in 0..50 {
            one_hand.push(wait(format!("t{n}.attacker.test"), false));
        }
        let mut left = Vec::new();
        for task in one_hand {
            left.push(task.await.unwrap());
        }
        left.sort_by_key(|(_, when)| *when);
        assert_eq!(
            left.iter()
                .filter(|(outcome, _)| *outcome == Waited::Full)
                .count(),
            48
        );
        assert!(left[..48].iter().all(|(_, when)| *when < 600));
        assert_eq!(left[48].0, Waited::TimedOut);
        // The group counts as slow now: two wait, a third fails at once, and a completed lookup succeeds.
        let begin = Instant::now();
        let _two = (0..2)
            .map(|n| wait(format!("u{n}.attacker.test"), false))
            .collect::<Vec<_>>();
        tokio::task::yield_now().await;
        assert_eq!(
            waits.wait("attacker.test", false, pending::<()>()).await,
            Waited::Full
        );
        assert_eq!(
            waits.wait("attacker.test", false, ready(1)).await,
            Waited::Done(1)
        );
        assert!(begin.elapsed() < Duration::from_millis(10));
        // Large messages of others have two places.
        let large: Vec<_> = (0..4).map(|n| wait(format!("large{n}.test"), true)).collect();
        let mut full = 0;
        for task in large {
            full += usize::from(task.await.unwrap().0 == Waited::Full);
        }
        assert_eq!(full, 2);
        assert!(waits.groups.lock().unwrap().is_empty(), "places are given back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_answers_late_is_waited_for() {
        let waits = Waits::new(1);
        let late = tokio::time::sleep(Duration::from_secs(10));
        assert_eq!(waits.wait("slow.test", false, late).await, Waited::Done(()));
        assert!(!waits.slow.contains_key("slow.test"));
        assert_eq!(waits.all.available_permits(), 1);
    }
}
