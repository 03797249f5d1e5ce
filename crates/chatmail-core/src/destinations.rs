//! What became of mail to other domains: the figures that `filtermail outgoing` collects and `chatmail` prints.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Upper bound of the first bucket of delivery times, in seconds.
const FIRST: f64 = 0.01;
/// Factor from one bucket to the next.
const FACTOR: f64 = 1.25;
/// The last bucket ends after 8 days, which is longer than mail waits.
const LAST: u8 = 81;

/// Result of an attempt to deliver to one recipient.
#[derive(Debug, Clone, PartialEq)]
pub enum Outcome {
    /// The other server has accepted the message, this many seconds after the relay.
    Sent(f64),
    /// The relay tries again, for this reason.
    Deferred(String),
    /// The message returns to its sender, for this reason.
    Bounced(String),
}

/// Figures of one destination.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Figures {
    /// Recipients whose server has accepted the message.
    pub sent: u64,
    /// Attempts that the relay repeats.
    pub deferred: u64,
    /// Recipients to whom the message could not be delivered.
    pub bounced: u64,
    /// Deferred and bounced attempts by reason.
    pub reasons: BTreeMap<String, u64>,
    /// Seconds of all deliveries together.
    pub seconds: f64,
    /// Deliveries by their time, in buckets of growing size.
    buckets: BTreeMap<u8, u64>,
}

impl Figures {
    /// Adds a result.
    pub fn add(&mut self, outcome: &Outcome) {
        let reason = match outcome {
            Outcome::Sent(seconds) => {
                self.sent += 1;
                self.seconds += seconds;
                *self.buckets.entry(bucket(*seconds)).or_default() += 1;
                return;
            }
            Outcome::Deferred(reason) => {
                self.deferred += 1;
                reason
            }
            Outcome::Bounced(reason) => {
                self.bounced += 1;
                reason
            }
        };
        *self.reasons.entry(reason.clone()).or_default() += 1;
    }

    /// Adds the figures of another destination.
    pub fn merge(&mut self, other: &Self) {
        self.sent += other.sent;
        self.deferred += other.deferred;
        self.bounced += other.bounced;
        self.seconds += other.seconds;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
        for (bucket, count) in &other.buckets {
            *self.buckets.entry(*bucket).or_default() += count;
        }
    }

    /// Number of results.
    pub fn total(&self) -> u64 {
        self.sent + self.deferred + self.bounced
    }

    /// Mean time of a delivery in seconds; none without a delivery.
    pub fn mean(&self) -> Option<f64> {
        (self.sent > 0).then(|| self.seconds / self.sent as f64)
    }

    /// Time in seconds within which this share of all deliveries was done, at most a quarter too long; none without a
    /// delivery.
    pub fn quantile(&self, share: f64) -> Option<f64> {
        let wanted = (share * self.sent as f64).ceil() as u64;
        let mut seen = 0;
        let found = self.buckets.iter().find(|(_, count)| {
            seen += **count;
            seen >= wanted
        });
        found.map(|(bucket, _)| FIRST * FACTOR.powi(i32::from(*bucket)))
    }
}

/// The bucket of a time, whose upper bound is the next one that is not shorter.
fn bucket(seconds: f64) -> u8 {
    let steps = (seconds / FIRST).log(FACTOR).ceil();
    // NaN and negative numbers become zero.
    (steps.min(f64::from(LAST))) as u8
}

/// Figures of all destinations.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Destinations {
    /// Unix time at which counting has begun.
    pub since: u64,
    /// The busiest destinations.
    pub domains: BTreeMap<String, Figures>,
    /// All others together.
    pub others: Figures,
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn times_are_measured_to_a_quarter() {
        let mut figures = Figures::default();
        assert_eq!((figures.mean(), figures.quantile(0.99)), (None, None));
        for n in 1..=100 {
            figures.add(&Outcome::Sent(f64::from(n)));
        }
        assert_eq!(figures.mean(), Some(50.5));
        let p99 = figures.quantile(0.99).unwrap();
        assert!((99.0..=99.0 * 1.25).contains(&p99), "{p99}");
        let median = figures.quantile(0.5).unwrap();
        assert!((50.0..=50.0 * 1.25).contains(&median), "{median}");
    }

    #[test]
    fn results_are_counted_with_their_reasons() {
        let mut one = Figures::default();
        one.add(&Outcome::Deferred("4.4.1".to_owned()));
        one.add(&Outcome::Bounced("5.1.1".to_owned()));
        let mut all = one.clone();
        all.add(&Outcome::Sent(1.0));
        all.merge(&one);
        assert_eq!((all.sent, all.deferred, all.bounced, all.total()), (1, 2, 2, 5));
        assert_eq!(
            all.reasons,
            [("4.4.1".to_owned(), 2), ("5.1.1".to_owned(), 2)].into()
        );
    }

    proptest! {
        #[test]
        fn any_time_has_a_bucket(seconds in proptest::num::f64::ANY) {
            prop_assert!(bucket(seconds) <= LAST);
        }
    }
}
