//! The shared state of the tasks that accept and send notifications: the schedule in memory and the queue on disk.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;
use tokio::task::spawn_blocking;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::post::{Post, Reply};
use super::queue::{Id, Item, Queue};
use super::schedule::{DEADLINE, End, Inserted, Job, Limits, Offer, Schedule};
use super::throttle::Throttle;
use super::turns::Key;
use crate::Clock;
use crate::metrics;
use crate::tokens::{MetadataStore, StoreError};

/// Maximum number of notifications only in memory, while the disk is full.
const MAX_UNSTORED: usize = 10_000;

/// Files that are read between two checks whether the service has to stop.
const LOAD_AT_ONCE: usize = 256;

/// The schedule and the notifications of its entries.
#[derive(Debug)]
pub(super) struct Shared<P> {
    pub(super) tokens: Arc<MetadataStore>,
    pub(super) queue: Queue,
    post: P,
    pub(super) clock: Clock,
    schedule: Mutex<Schedule<Stored>>,
    accounts: RandomState,
    devices: RandomState,
    /// Notified when an entry is added to the schedule.
    pub(super) changed: Notify,
    /// Number of notifications that are only in memory.
    unstored: AtomicUsize,
    /// Whether the disk contains notifications for which memory had no room.
    pub(super) more_on_disk: AtomicBool,
    failed: Throttle,
    given_up: Throttle,
    pub(super) disk: Throttle,
}

/// Why the notification of a message was not accepted.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// The account's tokens cannot be read.
    #[error(transparent)]
    Tokens(#[from] StoreError),
    /// Neither the disk nor the queue in memory has room.
    #[error("the disk is full and so is the push queue in memory")]
    Full,
}

/// Where a notification is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Stored {
    Disk(Id),
    Memory(Arc<Item>),
}

impl<P: Post> Shared<P> {
    pub(super) fn new(
        queue: Queue,
        tokens: Arc<MetadataStore>,
        post: P,
        limits: Limits,
        clock: Clock,
    ) -> Self {
        Self {
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
        }
    }

    pub(super) fn schedule(&self) -> MutexGuard<'_, Schedule<Stored>> {
        self.schedule.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn key(&self, item: &Item) -> Key {
        Key {
            account: self.accounts.hash_one(item.address.as_str()),
            token: self.devices.hash_one(&item.token),
        }
    }

    /// Stores a notification unless a pending one covers it. Returns whether an entry was added.
    pub(super) fn take(&self, item: Item) -> Result<bool, PushError> {
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
            // Otherwise it stays on disk until there is room.
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
        let inserted = {
            let mut schedule = self.schedule();
            let inserted = schedule.insert(key, stored.clone(), start, Instant::now());
            metrics::queue(schedule.len());
            inserted
        };
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

    /// Loads notifications from disk as long as there is room.
    pub(super) async fn load(self: Arc<Self>, found: Option<Vec<Id>>, shutdown: CancellationToken) {
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
                    match shared.load_one(*id) {
                        Ok(true) => {}
                        Ok(false) => return Ok(()),
                        // Skip it until the next start.
                        Err(error) => shared.disk.warn("cannot read a push notification", &error),
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
        // A wrong clock must not keep a notification forever.
        let start = item.start.min(now);
        if start.saturating_add(DEADLINE) < now {
            self.give_up();
            self.discard(vec![Stored::Disk(id)]);
            return Ok(true);
        }
        Ok(self.insert(self.key(&item), Stored::Disk(id), start))
    }

    fn give_up(&self) {
        metrics::given_up();
        self.given_up.error("notification exceeded deadline");
    }

    pub(super) async fn send(self: Arc<Self>, job: Job<Stored>) {
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
                metrics::token("gone");
            }
            let finished = {
                let mut schedule = self.schedule();
                let finished = schedule.finish(job.key, end, Instant::now(), self.clock.unix());
                metrics::queue(schedule.len());
                finished
            };
            if finished.given_up {
                self.give_up();
            }
            self.discard(finished.discard);
            if let (End::Failed(_), Stored::Memory(item)) = (end, &job.item) {
                self.store_later(job.key, item);
            }
        });
        // Fails only if the runtime stops; the notification is sent again after the restart.
        let _ = ended.await;
    }

    async fn request(&self, item: &Item) -> End {
        let begin = Instant::now();
        let reply = self.post.post(&item.token).await;
        metrics::request(reply.name(), begin.elapsed());
        match reply {
            Reply::Delivered => End::Done,
            Reply::Gone => End::Gone,
            Reply::Failed { after, reason } => {
                self.failed.warn("notification request failed", &reason);
                End::Failed(after)
            }
        }
    }

    /// Stores notifications that are only in memory, before the process exits. Blocks on the disk.
    pub(super) fn store_all(&self) {
        let items: Vec<_> = self
            .schedule()
            .items()
            .filter_map(|stored| match stored {
                Stored::Memory(item) => Some(Arc::clone(item)),
                Stored::Disk(_) => None,
            })
            .collect();
        let lost = items
            .iter()
            .filter(|item| self.queue.store(item).is_err())
            .count();
        if lost > 0 {
            tracing::error!("{lost} push notifications are lost, because they cannot be stored");
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
            // The entry was dropped or replaced meanwhile.
            _ => Stored::Disk(id),
        };
        self.discard(vec![left]);
    }
}
