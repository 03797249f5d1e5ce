//! Notifies devices of new messages through the notification server.
//!
//! A token is opaque: the server learns neither the address nor anything about the message. A notification is on disk
//! before the report of the delivery is answered. It is removed when the server has accepted it, reports that the device
//! is gone, or after five hours.

pub mod http;
mod post;
mod queue;
mod schedule;
mod state;
mod throttle;
mod turns;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use chatmail_core::Address;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

pub use self::post::{Post, Reply};
use self::queue::{Id, Item, Queue};
pub use self::schedule::Limits;
pub use self::state::PushError;
use self::state::Shared;
use crate::Clock;
use crate::tokens::MetadataStore;

/// Limits of the service. An entry takes about 200 bytes of memory.
pub const LIMITS: Limits = Limits {
    requests: 64,
    repeats: 32,
    per_account: 4,
    entries: 100_000,
};

/// How long requests may continue when the service stops. Unfinished ones are sent after the restart.
const DRAIN: Duration = Duration::from_secs(5);

/// The push queue, and the task that sends its notifications.
#[derive(Debug)]
pub struct Notifier<P> {
    shared: Arc<Shared<P>>,
    /// Notifications found on disk at the start.
    found: Vec<Id>,
}

/// A handle that accepts messages; [`Notifier::run`] sends notifications.
#[derive(Debug)]
pub struct PushHandle<P>(Arc<Shared<P>>);

impl<P> Clone for PushHandle<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Post> PushHandle<P> {
    /// Accepts a message for an account. Its notifications are stored when this returns. Blocks on the disk.
    pub fn message(&self, address: &Address) -> Result<(), PushError> {
        let shared = &self.0;
        let start = shared.clock.unix();
        let mut stored = false;
        for token in shared.tokens.tokens(address, start)? {
            let item = Item {
                address: address.clone(),
                start,
                token,
            };
            stored |= shared.take(item)?;
        }
        if stored {
            shared.changed.notify_one();
            if let Err(error) = shared.queue.sync() {
                shared.disk.warn("cannot make push notifications durable", &error);
            }
        }
        Ok(())
    }
}

impl<P: Post> PushHandle<P> {
    /// Tries once more to store notifications that are only in memory; call it last. Blocks on the disk.
    pub fn close(&self) {
        self.0.store_all();
    }
}

impl<P: Post> Notifier<P> {
    /// Opens the queue in `dir`.
    pub fn open(
        dir: &Path,
        tokens: Arc<MetadataStore>,
        post: P,
        limits: Limits,
        clock: Clock,
    ) -> io::Result<Self> {
        let queue = Queue::open(dir)?;
        let found = queue.ids()?;
        let shared = Shared::new(queue, tokens, post, limits, clock);
        Ok(Self {
            shared: Arc::new(shared),
            found,
        })
    }

    /// Returns a handle that accepts messages.
    pub fn handle(&self) -> PushHandle<P> {
        PushHandle(Arc::clone(&self.shared))
    }

    /// Sends notifications until `shutdown` is cancelled, then waits for requests in progress.
    pub async fn run(self, shutdown: &CancellationToken) {
        let shared = &self.shared;
        let mut tasks = JoinSet::new();
        tasks.spawn(Arc::clone(shared).load(Some(self.found), shutdown.clone()));
        loop {
            let wake = {
                let mut schedule = shared.schedule();
                while let Some(job) = schedule.next(Instant::now()) {
                    tasks.spawn(Arc::clone(shared).send(job));
                }
                if schedule.has_room() && shared.more_on_disk.swap(false, Ordering::Relaxed) {
                    tasks.spawn(Arc::clone(shared).load(None, shutdown.clone()));
                }
                schedule.wake_at()
            };
            let wake = async {
                match wake {
                    Some(due) => sleep_until(due).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                () = shutdown.cancelled() => break,
                () = wake => {}
                () = shared.changed.notified() => {}
                Some(ended) = tasks.join_next() => {
                    if let Err(error) = ended {
                        tracing::error!("push: {error}");
                    }
                }
            }
        }
        let drained = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
        if drained.is_err() {
            tracing::info!(
                "{} requests to the notification server are unfinished and are repeated after the next start",
                tasks.len()
            );
        }
    }
}

#[cfg(test)]
mod tests;
