//! Times as files and protocols contain them.

use std::time::SystemTime;

/// Seconds of Unix time; zero for earlier times.
pub fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs())
}
