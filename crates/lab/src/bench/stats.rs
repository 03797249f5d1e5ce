//! Percentiles.

use std::time::Duration;

/// Percentiles of a set of durations.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) p50: Duration,
    pub(crate) p95: Duration,
    pub(crate) p99: Duration,
    pub(crate) max: Duration,
    pub(crate) total: Duration,
}

impl Summary {
    /// The percentiles of these durations, or `None` if there are none.
    pub(crate) fn of(durations: impl IntoIterator<Item = Duration>) -> Option<Self> {
        let mut sorted: Vec<Duration> = durations.into_iter().collect();
        sorted.sort_unstable();
        Some(Self {
            p50: percentile(&sorted, 50)?,
            p95: percentile(&sorted, 95)?,
            p99: percentile(&sorted, 99)?,
            max: sorted.last().copied()?,
            total: sorted.iter().sum(),
        })
    }
}

/// A duration in milliseconds.
pub(super) fn milliseconds(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

/// The smallest duration that at least `percent` percent of all durations do not exceed (nearest rank).
fn percentile(sorted: &[Duration], percent: usize) -> Option<Duration> {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(values: impl IntoIterator<Item = u64>) -> Option<Summary> {
        Summary::of(values.into_iter().map(Duration::from_millis))
    }

    #[test]
    fn nearest_rank() {
        let summary = ms((1..=100).rev()).unwrap();
        assert_eq!(summary.p50, Duration::from_millis(50));
        assert_eq!(summary.p95, Duration::from_millis(95));
        assert_eq!(summary.p99, Duration::from_millis(99));
        assert_eq!(summary.total, Duration::from_millis(5050));
    }

    #[test]
    fn few_values() {
        assert_eq!(ms([]), None);
        let one = ms([7]).unwrap();
        assert_eq!(
            (one.p50, one.p99),
            (Duration::from_millis(7), Duration::from_millis(7))
        );
        let two = ms([1, 9]).unwrap();
        assert_eq!(
            (two.p50, two.p95),
            (Duration::from_millis(1), Duration::from_millis(9))
        );
    }
}
