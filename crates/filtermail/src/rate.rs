//! How much mail one address may submit: GCRA, one cell per address.

use std::num::NonZeroU32;
use std::sync::atomic::{AtomicUsize, Ordering};

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter};

/// Submissions between two clean-ups. A cell that is no longer in use says nothing, so memory holds about this many
/// addresses and those that sent within the last burst.
const PRUNE_EVERY: usize = 1024;

/// Counts submissions per address.
#[derive(Debug)]
pub struct SendLimit {
    cells: DefaultKeyedRateLimiter<String>,
    clock: DefaultClock,
    since_prune: AtomicUsize,
}

impl SendLimit {
    /// Allows `burst` messages at once and `per_minute` in the long run.
    pub fn new(per_minute: NonZeroU32, burst: NonZeroU32) -> Self {
        Self {
            cells: RateLimiter::keyed(Quota::per_minute(per_minute).allow_burst(burst)),
            clock: DefaultClock::default(),
            since_prune: AtomicUsize::new(0),
        }
    }

    /// Counts one message; an error holds the whole seconds until the next may come. Case makes no difference.
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

    /// Addresses held in memory.
    pub fn len(&self) -> usize {
        self.cells.len()
    }

    /// Whether no address is held in memory.
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
    fn memory_does_not_grow_with_the_number_of_addresses() {
        // A cell is used up for 10 us only.
        let limit = limit(6_000_000, 1);
        for n in 0..20 * PRUNE_EVERY {
            assert_eq!(limit.check(&format!("{n}@b")), Ok(()));
        }
        assert!(limit.len() <= 2 * PRUNE_EVERY, "{}", limit.len());
    }
}
