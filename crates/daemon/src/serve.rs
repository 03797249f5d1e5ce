//! The accept loop.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio_util::task::TaskTracker;

use crate::listen::Listener;
use crate::service::{DRAIN, Service};

const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(1);

/// Serves connections until the service has to stop, then waits up to [`DRAIN`] for open ones.
///
/// At most `max_connections` are open at once; more wait in the kernel's listen queue, at no cost. An accept error,
/// such as a lack of file descriptors, is logged, and accepting is retried after a pause.
pub async fn serve<L, H>(
    service: &Service,
    listener: L,
    max_connections: usize,
    mut handle: impl FnMut(L::Stream) -> H,
) where
    L: Listener,
    H: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(max_connections));
    let connections = TaskTracker::new();
    let mut backoff = BACKOFF_MIN;
    loop {
        let permit = tokio::select! {
            // The semaphore is never closed.
            Ok(permit) = Arc::clone(&permits).acquire_owned() => permit,
            () = service.shutdown.cancelled() => break,
        };
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = service.shutdown.cancelled() => break,
        };
        match accepted {
            Ok(stream) => {
                backoff = BACKOFF_MIN;
                let connection = handle(stream);
                connections.spawn(async move {
                    connection.await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!("cannot accept a connection: {error}");
                tokio::select! {
                    () = tokio::time::sleep(backoff) => {}
                    () = service.shutdown.cancelled() => break,
                }
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(DRAIN, connections.wait()).await.is_err() {
        tracing::warn!("closing {} connections that are still open", connections.len());
    }
}
