//! Targets of a benchmark.

use std::fmt;

/// A figure and its bound.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Target {
    what: String,
    figure: f64,
    bound: Bound,
    unit: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Bound {
    AtMost(f64),
    AtLeast(f64),
}

impl Target {
    /// The figure must not be above the bound.
    pub(super) fn at_most(bound: f64, unit: &'static str, what: impl Into<String>, figure: f64) -> Self {
        Self {
            what: what.into(),
            figure,
            bound: Bound::AtMost(bound),
            unit,
        }
    }

    /// The figure must not be below the bound.
    pub(super) fn at_least(bound: f64, unit: &'static str, what: impl Into<String>, figure: f64) -> Self {
        Self {
            what: what.into(),
            figure,
            bound: Bound::AtLeast(bound),
            unit,
        }
    }

    /// Whether the target is met.
    pub(super) fn holds(&self) -> bool {
        match self.bound {
            Bound::AtMost(bound) => self.figure <= bound,
            Bound::AtLeast(bound) => self.figure >= bound,
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (word, bound) = match self.bound {
            Bound::AtMost(bound) => ("at most", bound),
            Bound::AtLeast(bound) => ("at least", bound),
        };
        let verdict = if self.holds() { "met" } else { "MISSED" };
        write!(
            f,
            "{verdict:7}{}: {} {}, {word} {bound} {}",
            self.what,
            (self.figure * 100.0).round() / 100.0,
            self.unit,
            self.unit
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bounds_are_inclusive() {
        let low = Target::at_most(8.0, "ms", "CPU per message", 8.0);
        assert!(low.holds());
        assert_eq!(low.to_string(), "met    CPU per message: 8 ms, at most 8 ms");
        let high = Target::at_least(250.0, "per second", "logins", 249.994);
        assert!(!high.holds());
        assert_eq!(
            high.to_string(),
            "MISSED logins: 249.99 per second, at least 250 per second"
        );
    }

    #[test]
    fn what_was_not_measured_is_missed() {
        assert!(!Target::at_most(1.0, "ms", "latency", f64::NAN).holds());
        assert!(!Target::at_least(1.0, "ms", "latency", f64::NAN).holds());
    }
}
