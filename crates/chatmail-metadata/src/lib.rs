//! METADATA of a relay: announcements to clients, the tokens of their devices, and the notifications that wake them.

pub mod announce;
pub mod delivered;
pub mod entries;
pub mod lookup;
pub mod metrics;
pub mod push;
pub mod service;
pub mod tokens;

use std::fmt;
use std::sync::Arc;
use std::time::SystemTime;

/// Returns the Unix time.
#[derive(Clone)]
pub struct Clock(Arc<dyn Fn() -> u64 + Send + Sync>);

impl Clock {
    /// The clock of this machine.
    pub fn system() -> Self {
        Self::new(|| chatmail_core::unix_seconds(SystemTime::now()))
    }

    /// A clock that calls `unix`, which returns seconds.
    pub fn new(unix: impl Fn() -> u64 + Send + Sync + 'static) -> Self {
        Self(Arc::new(unix))
    }

    /// Seconds of Unix time.
    pub fn unix(&self) -> u64 {
        (self.0)()
    }
}

impl fmt::Debug for Clock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Clock")
    }
}
