//! Limits how many passwords are hashed at once, and how many logins wait for it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chatmail_core::password::Scratch;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::metrics;

/// Why a password is hashed. Each kind has its own places.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lane {
    /// A login to an existing account.
    Known,
    /// A login that may create an account.
    New,
}

/// Hashes passwords on blocking threads, only a few at once: each takes memory and a processor.
#[derive(Debug)]
pub struct Hasher {
    /// Places of running and waiting hashes, by lane.
    known: Arc<Semaphore>,
    new: Arc<Semaphore>,
    places: usize,
    /// Permits to run. Both lanes wait in one queue, in the order of arrival.
    running: Arc<Semaphore>,
    /// Working memory that is not in use, kept while hashes are waiting.
    scratches: Arc<Mutex<Vec<Scratch>>>,
}

/// The right to have one password hashed.
#[derive(Debug)]
pub struct Place {
    _permit: OwnedSemaphorePermit,
}

/// Too many passwords are waiting to be hashed, or the process is stopping.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many logins are waiting for their password to be hashed")]
pub struct Busy;

impl Hasher {
    /// Hashes at most `parallel` passwords at once; in each lane, at most `places` run or wait.
    pub fn new(parallel: usize, places: usize) -> Self {
        Self {
            known: Arc::new(Semaphore::new(places)),
            new: Arc::new(Semaphore::new(places)),
            places,
            running: Arc::new(Semaphore::new(parallel)),
            scratches: Arc::default(),
        }
    }

    /// Takes a place in this lane; fails at once with [`Busy`] if all are taken.
    pub fn admit(&self, lane: Lane) -> Result<Place, Busy> {
        let lane = match lane {
            Lane::Known => &self.known,
            Lane::New => &self.new,
        };
        let permit = Arc::clone(lane).try_acquire_owned().map_err(|_| Busy)?;
        Ok(Place { _permit: permit })
    }

    /// Runs `work` when its turn comes.
    ///
    /// Work that has started keeps its place even if the caller is cancelled.
    pub async fn run<T: Send + 'static>(
        &self,
        place: Place,
        work: impl FnOnce(&mut Scratch) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let begin = Instant::now();
        let running = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Busy)?;
        let scratches = Arc::clone(&self.scratches);
        let (known, new, places) = (Arc::clone(&self.known), Arc::clone(&self.new), self.places);
        tokio::task::spawn_blocking(move || {
            let lock = || scratches.lock().unwrap_or_else(PoisonError::into_inner);
            let free = lock().pop();
            let mut scratch = free.unwrap_or_default();
            let result = work(&mut scratch);
            lock().push(scratch);
            drop((running, place));
            if known.available_permits() == places && new.available_permits() == places {
                // Free the memory: a relay is idle most of the time, and small.
                lock().clear();
            }
            metrics::hashed(begin.elapsed());
            result
        })
        .await
        .map_err(|_| Busy)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;

    #[tokio::test]
    async fn as_many_run_and_wait_as_allowed() {
        let hasher = Arc::new(Hasher::new(2, 5));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (hasher, gate) = (Arc::clone(&hasher), Arc::clone(&gate));
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    let place = hasher.admit(Lane::New)?;
                    hasher
                        .run(place, move |_| {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            gate.lock().unwrap().recv().unwrap();
                            now.fetch_sub(1, Ordering::SeqCst);
                        })
                        .await
                })
            })
            .collect();
        while hasher.new.available_permits() > 0 || now.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(hasher.admit(Lane::New).unwrap_err(), Busy);
        // The other lane has its places still, and is served in its turn.
        let known = tokio::spawn({
            let hasher = Arc::clone(&hasher);
            async move { hasher.run(hasher.admit(Lane::Known)?, |_| 3).await }
        });
        for _ in 0..5 {
            release.send(()).unwrap();
        }
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
        assert_eq!(known.await.unwrap(), Ok(3));
        let place = hasher.admit(Lane::New).unwrap();
        assert_eq!(hasher.run(place, |_| 7).await, Ok(7));
        assert!(
            hasher.scratches.lock().unwrap().is_empty(),
            "memory is given back"
        );
    }
}
