//! Tells the notification server whose device should look for messages.
//!
//! A token is opaque: the server learns neither the address nor anything of the message. A notification is on disk
//! before Dovecot hears that it was taken, and leaves the disk when the server has taken it, says that the device is
//! gone, or after five hours.

pub mod http;
mod queue;
mod schedule;
mod throttle;
mod turns;

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chatmail_core::Address;
use tokio::sync::Notify;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

use self::queue::{Id, Item, Queue};
pub use self::schedule::Limits;
use self::schedule::{DEADLINE, End, Inserted, Job, Key, Offer, Schedule};
use self::throttle::Throttle;
use crate::Clock;
use crate::tokens::{TokenError, TokenStore};

/// Bounds of the real service. An entry takes about 200 bytes of memory.
pub const LIMITS: Limits = Limits {
    requests: 64,
    repeats: 32,
    per_account: 4,
    entries: 100_000,
};

/// Most notifications that are kept in memory alone because the disk takes none.
const MAX_UNSTORED: usize = 10_000;

/// Files that are read between two looks at whether the service has to end.
const LOAD_AT_ONCE: usize = 256;

/// How long requests may go on once the service has to end. What is not finished is sent after the restart.
const DRAIN: Duration = Duration::from_secs(5);

/// Sends a token to the notification server.
pub trait Post: Send + Sync + 'static {
    /// One request, which has to end by itself.
    fn post(&self, token: &str) -> impl Future<Output = Reply> + Send;
}

/// What became of a request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reply {
    /// The device was notified.
    Delivered,
    /// The device does not exist any more.
    Gone,
    /// It may work later.
    Failed {
        /// How long the server wants to be left alone.
        after: Option<Duration>,
        /// What happened, without the token.
        reason: String,
    },
}

/// Why a message's notification was not taken.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The account's tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] TokenError),
    /// The disk takes nothing and memory is used up.
    #[error("the disk is full and so is the push queue in memory")]
    Full,
}

/// The push queue and what empties it.
#[derive(Debug)]
pub struct Notifier<P> {
    shared: Arc<Shared<P>>,
    /// Found on disk at the start.
    found: Vec<Id>,
}

#[derive(Debug)]
struct Shared<P> {
    tokens: Arc<TokenStore>,
    queue: Queue,
    post: P,
    clock: Clock,
    schedule: Mutex<Schedule<Stored>>,
    accounts: RandomState,
    devices: RandomState,
    /// Something was added to the schedule.
    changed: Notify,
    /// Notifications that are in memory alone.
    unstored: AtomicUsize,
    /// Whether there are notifications on disk that memory had no room for.
    more_on_disk: AtomicBool,
    failed: Throttle,
    given_up: Throttle,
    disk: Throttle,
}

/// Where a notification is.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Stored {
    Disk(Id),
    Memory(Arc<Item>),
}

/// A handle that takes messages; [`Notifier::run`] sends.
#[derive(Debug)]
pub struct Inlet<P>(Arc<Shared<P>>);

impl<P> Clone for Inlet<P> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<P: Post> Inlet<P> {
    /// Takes a message for an account: what has to be sent is stored when this returns. Blocks on the disk.
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

impl<P: Post> Inlet<P> {
    /// Tries once more to store what is in memory alone; call it last. Blocks on the disk.
    pub fn close(&self) {
        let shared = &self.0;
        let items: Vec<_> = shared
            .schedule()
            .items()
            .filter_map(|stored| match stored {
                Stored::Memory(item) => Some(Arc::clone(item)),
                Stored::Disk(_) => None,
            })
            .collect();
        let lost = items
            .iter()
            .filter(|item| shared.queue.store(item).is_err())
            .count();
        if lost > 0 {
            tracing::error!("{lost} push notifications are lost, because the disk takes none");
        }
    }
}

impl<P: Post> Notifier<P> {
    /// Opens the queue in `dir`.
    pub fn open(
        dir: &Path,
        tokens: Arc<TokenStore>,
        post: P,
        limits: Limits,
        clock: Clock,
    ) -> io::Result<Self> {
        let queue = Queue::open(dir)?;
        let found = queue.ids()?;
        let shared = Shared {
            tokens,
            queue,
            post,
            clock,
            schedule: Mutex::new(Schedule::new(limits)),
            accounts: RandomState::new(),
            devices: RandomState::new(),
            changed: Notify::new(),
            unstored: AtomicUsize::new(0),
            more_on_disk: AtomicBool::new(false),
            failed: Throttle::default(),
            given_up: Throttle::default(),
            disk: Throttle::default(),
        };
        Ok(Self {
            shared: Arc::new(shared),
            found,
        })
    }

    /// For whoever hears of messages.
    pub fn inlet(&self) -> Inlet<P> {
        Inlet(Arc::clone(&self.shared))
    }

    /// Sends until `shutdown` is cancelled, then lets requests that are under way end.
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
                "{} requests to the notification server are left for the next start",
                tasks.len()
            );
        }
    }
}

impl<P: Post> Shared<P> {
    fn schedule(&self) -> MutexGuard<'_, Schedule<Stored>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, item: &Item) -> Key {
        Key {
            account: self.accounts.hash_one(item.address.as_str()),
            token: self.devices.hash_one(&item.token),
        }
    }

    /// Stores a notification unless one is pending that covers it. Returns whether anything was added.
    fn take(&self, item: Item) -> Result<bool, PushError> {
        let (key, start) = (self.key(&item), item.start);
        if self.schedule().offer(key, start, Instant::now()) == Offer::Merged {
            return Ok(false);
        }
        let stored = match self.queue.store(&item) {
            Ok(id) => Stored::Disk(id),
            Err(error) => {
                self.disk
                    .warn("cannot store a push notification, keeping it in memory", &error);
                if self.unstored.fetch_add(1, Ordering::Relaxed) >= MAX_UNSTORED {
                    self.unstored.fetch_sub(1, Ordering::Relaxed);
                    return Err(PushError::Full);
                }
                Stored::Memory(Arc::new(item))
            }
        };
        match self.insert(key, stored.clone(), start) {
            // It stays on disk until there is room.
            true => Ok(true),
            false if matches!(stored, Stored::Disk(_)) => Ok(false),
            false => {
                self.discard(vec![stored]);
                Err(PushError::Full)
            }
        }
    }

    /// Returns false if there is no room.
    fn insert(&self, key: Key, stored: Stored, start: u64) -> bool {
        let inserted = self.schedule().insert(key, stored.clone(), start, Instant::now());
        match inserted {
            Inserted::Taken(replaced) => self.discard(replaced.into_iter().collect()),
            Inserted::Covered => self.discard(vec![stored]),
            Inserted::Full => {
                self.more_on_disk.store(true, Ordering::Relaxed);
                return false;
            }
        }
        true
    }

    /// Blocks on the disk.
    fn discard(&self, items: Vec<Stored>) {
        for item in items {
            match item {
                Stored::Disk(id) => {
                    if let Err(error) = self.queue.remove(id) {
                        self.disk
                            .warn("cannot remove a push notification that is done", &error);
                    }
                }
                Stored::Memory(_) => {
                    self.unstored.fetch_sub(1, Ordering::Relaxed);
                }
            }
        }
    }

    /// Takes in what is on disk, as far as there is room.
    async fn load(self: Arc<Self>, found: Option<Vec<Id>>, shutdown: CancellationToken) {
        let shared = Arc::clone(&self);
        let loading = spawn_blocking(move || {
            let ids = match found {
                Some(ids) => ids,
                None => shared.queue.ids()?,
            };
            for ids in ids.chunks(LOAD_AT_ONCE) {
                if shutdown.is_cancelled() {
                    break;
                }
                for id in ids {
                    if !shared.load_one(*id)? {
                        return Ok(());
                    }
                }
                shared.changed.notify_one();
            }
            io::Result::Ok(())
        });
        if let Ok(Err(error)) = loading.await {
            self.disk.warn("cannot read the push queue", &error);
        }
    }

    /// Returns false if there is no room.
    fn load_one(&self, id: Id) -> io::Result<bool> {
        let Some(item) = self.queue.read(id)? else {
            return Ok(true);
        };
        let now = self.clock.unix();
        // A clock that was wrong must not keep a notification forever.
        let start = item.start.min(now);
        if start.saturating_add(DEADLINE) < now {
            self.give_up();
            self.discard(vec![Stored::Disk(id)]);
            return Ok(true);
        }
        Ok(self.insert(self.key(&item), Stored::Disk(id), start))
    }

    fn give_up(&self) {
        self.given_up.error("notification exceeded deadline");
    }

    async fn send(self: Arc<Self>, job: Job<Stored>) {
        let item = match &job.item {
            Stored::Memory(item) => Ok(Some(Item::clone(item))),
            Stored::Disk(id) => {
                let (shared, id) = (Arc::clone(&self), *id);
                spawn_blocking(move || shared.queue.read(id))
                    .await
                    .unwrap_or_else(|error| Err(io::Error::other(error)))
            }
        };
        let end = match &item {
            Ok(Some(item)) => self.request(item).await,
            Ok(None) => End::Done,
            Err(error) => {
                self.disk.warn("cannot read a push notification", error);
                End::Failed(None)
            }
        };
        let ended = spawn_blocking(move || {
            if let (Ok(Some(item)), End::Gone) = (&item, end) {
                let now = self.clock.unix();
                if let Err(error) = self.tokens.remove(&item.address, &item.token, now) {
                    self.disk.warn("cannot remove a device token", &error);
                }
            }
            let finished = self
                .schedule()
                .finish(job.key, end, Instant::now(), self.clock.unix());
            if finished.given_up {
                self.give_up();
            }
            self.discard(finished.discard);
            if let (End::Failed(_), Stored::Memory(item)) = (end, &job.item) {
                self.store_later(job.key, item);
            }
        });
        // Fails only when the runtime ends; the file is sent again after the restart.
        let _ = ended.await;
    }

    async fn request(&self, item: &Item) -> End {
        match self.post.post(&item.token).await {
            Reply::Delivered => End::Done,
            Reply::Gone => End::Gone,
            Reply::Failed { after, reason } => {
                self.failed.warn("notification request failed", &reason);
                End::Failed(after)
            }
        }
    }

    /// Moves a notification from memory to a disk that has room again.
    fn store_later(&self, key: Key, item: &Arc<Item>) {
        let Ok(id) = self.queue.store(item) else {
            return;
        };
        let memory = Stored::Memory(Arc::clone(item));
        let left = match self.schedule().item_mut(key) {
            Some(stored) if *stored == memory => std::mem::replace(stored, Stored::Disk(id)),
            // It was given up or replaced meanwhile.
            _ => Stored::Disk(id),
        };
        self.discard(vec![left]);
    }
}

#[cfg(test)]
mod tests;
