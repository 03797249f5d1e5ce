//! What the lab does at the moment, for the person who waits.

use std::fmt::Display;
use std::time::Instant;

/// Prints one line for each step, with the seconds since the start, to standard error.
#[derive(Debug)]
pub(crate) struct Progress {
    started: Instant,
}

impl Progress {
    /// Starts the clock.
    pub(crate) fn new() -> Self {
        Self {
            started: Instant::now(),
        }
    }

    /// Says what begins now.
    pub(crate) fn step(&self, what: impl Display) {
        eprintln!("[{:6.1} s] {what}", self.started.elapsed().as_secs_f64());
    }
}
