//! Log lines about events that may happen a thousand times per second.

use std::fmt::Display;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Minimum time between two lines of one kind.
const INTERVAL: Duration = Duration::from_secs(60);

/// Writes the first line of a kind at once, and later lines with the number of suppressed ones.
#[derive(Debug, Default)]
pub(super) struct Throttle(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    last: Option<Instant>,
    left_out: u64,
}

impl Throttle {
    /// Logs a failure that is handled.
    pub(super) fn warn(&self, what: &str, reason: &dyn Display) {
        match self.pass(Instant::now()) {
            Some(0) => tracing::warn!("{what}: {reason}"),
            Some(more) => tracing::warn!("{what}: {reason} (and {more} more since the last such line)"),
            None => {}
        }
    }

    /// Logs a loss.
    pub(super) fn error(&self, what: &str) {
        match self.pass(Instant::now()) {
            Some(0) => tracing::error!("{what}"),
            Some(more) => tracing::error!("{what} (and {more} more since the last such line)"),
            None => {}
        }
    }

    /// The number of suppressed lines, if this line may be written.
    fn pass(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.last.is_some_and(|last| now < last + INTERVAL) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_a_minute_tells_of_the_others() {
        let throttle = Throttle::default();
        let start = Instant::now();
        assert_eq!(throttle.pass(start), Some(0));
        for second in 1..60 {
            assert_eq!(throttle.pass(start + Duration::from_secs(second)), None);
        }
        assert_eq!(throttle.pass(start + INTERVAL), Some(59));
        assert_eq!(throttle.pass(start + INTERVAL * 2), Some(0));
    }
}
