//! The rate at which one address may submit mail: GCRA, one cell per address.
//!
//! A message is counted before it is sent, if Postfix asks, and otherwise when it reaches the filter. The limit
//! therefore applies even while Postfix cannot ask.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};
use moka::ops::compute::Op;
use moka::sync::Cache;

/// Submissions between two clean-ups, which remove idle cells. This bounds the number of addresses in memory to about
/// this many, plus those that have sent within the last burst.
const PRUNE_EVERY: usize = 1024;

/// Maximum number of addresses with messages on their way. A message that is evicted counts twice.
const MAX_RESERVED: u64 = 10_000;
/// Maximum time from the first recipient of a message to its end, on a slow line.
const MAX_UPLOAD: Duration = Duration::from_secs(3600);

/// Counts submissions per address.
#[derive(Debug)]
pub struct SendLimit {
    cells: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
    since_prune: AtomicUsize,
    /// Messages that were counted but have not reached the filter, by address.
    reserved: Cache<String, u32>,
    burst: u32,
}

impl SendLimit {
    /// Allows `burst` messages at once and `per_minute` in the long run.
    pub fn new(per_minute: NonZeroU32, burst: NonZeroU32) -> Self {
        Self {
            cells: RateLimiter::keyed(Quota::per_minute(per_minute).allow_burst(burst)),
            clock: DefaultClock::default(),
            since_prune: AtomicUsize::new(0),
            reserved: Cache::builder()
                .max_capacity(MAX_RESERVED)
                .time_to_live(MAX_UPLOAD)
                .build(),
            burst: burst.get(),
        }
    }

    /// Counts one message; an error holds the seconds until the next one is allowed. Case is ignored.
    pub fn check(&self, address: &str) -> Result<(), u64> {
        if self.since_prune.fetch_add(1, Ordering::Relaxed) >= PRUNE_EVERY {
            self.since_prune.store(0, Ordering::Relaxed);
            self.cells.retain_recent();
            self.cells.shrink_to_fit();
        }
        self.cells
            .check_key(&address.to_ascii_lowercase())
            .map_err(|until| until.wait_time_from(self.clock.now()).as_millis().div_ceil(1000) as u64)
    }

    /// Counts a message that is about to be sent.
    pub fn reserve(&self, address: &str) -> Result<(), u64> {
        self.check(address)?;
        self.change(address, |count| Some(count.saturating_add(1).min(self.burst)));
        Ok(())
    }

    /// Counts a message that has reached the filter, unless it was counted before it was sent.
    pub fn redeem(&self, address: &str) -> Result<(), u64> {
        let mut reserved = false;
        self.change(address, |count| {
            reserved = count > 0;
            count.checked_sub(1).filter(|left| *left > 0)
        });
        if reserved { Ok(()) } else { self.check(address) }
    }

    fn change(&self, address: &str, change: impl FnOnce(u32) -> Option<u32>) {
        let entry = self.reserved.entry(address.to_ascii_lowercase());
        entry.and_compute_with(
            |found| match change(found.map_or(0, |entry| entry.into_value())) {
                Some(count) => Op::Put(count),
                None => Op::Remove,
            },
        );
    }

    /// Number of addresses in memory.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether there is no address in memory.
    pub fn is_empty(&self) -> bool {
        self.cells.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(per_minute: u32, burst: u32) -> SendLimit {
        SendLimit::new(per_minute.try_into().unwrap(), burst.try_into().unwrap())
    }

    #[test]
    fn a_burst_passes_and_then_nothing() {
        let limit = limit(1, 3);
        for _ in 0..3 {
            assert_eq!(limit.check("A@b"), Ok(()));
        }
        assert!(matches!(limit.check("a@B"), Err(1..=60)));
        assert_eq!(limit.check("c@b"), Ok(()), "others are not affected");
    }

    #[test]
    fn what_was_counted_before_is_not_counted_again() {
        let limit = limit(1, 3);
        for _ in 0..3 {
            assert_eq!(limit.reserve("A@b"), Ok(()));
        }
        assert!(limit.reserve("a@b").is_err());
        for _ in 0..3 {
            assert_eq!(limit.redeem("a@B"), Ok(()));
        }
        assert!(limit.redeem("a@b").is_err(), "a fourth message was not counted");
        // If Postfix has not asked before, the message itself counts.
        assert_eq!(limit.redeem("c@b"), Ok(()));
        assert_eq!(limit.reserve("c@b"), Ok(()));
        assert_eq!(limit.reserve("c@b"), Ok(()));
        assert!(limit.reserve("c@b").is_err());
    }

    #[test]
    fn memory_does_not_grow_with_the_number_of_addresses() {
        // A cell is used up for 10 us only.
        let limit = limit(6_000_000, 1);
        for n in 0..20 * PRUNE_EVERY {
            assert_eq!(limit.check(&format!("{n}@b")), Ok(()));
        }
        assert!(limit.len() <= 2 * PRUNE_EVERY, "{}", limit.len());
    }
}
