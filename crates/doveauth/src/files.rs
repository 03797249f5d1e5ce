//! File operations, on threads that may block.

use std::io;
use std::time::Duration;

/// Interval at which a lock is tried while another process holds it.
const LOCK_RETRY: Duration = Duration::from_millis(20);

/// Runs file operations on a thread that may block.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> io::Result<T> + Send + 'static,
) -> io::Result<T> {
    tokio::task::spawn_blocking(work)
        .await
        .map_err(io::Error::other)?
}

/// Tries to take a lock until no other process holds it.
pub(crate) async fn when_locked<T: Send + 'static>(
    try_lock: impl Fn() -> io::Result<Option<T>> + Clone + Send + 'static,
) -> io::Result<T> {
    loop {
        if let Some(locked) = blocking(try_lock.clone()).await? {
            return Ok(locked);
        }
        tokio::time::sleep(LOCK_RETRY).await;
    }
}
