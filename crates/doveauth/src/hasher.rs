//! How many passwords are hashed at once.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use chatmail_core::password::Scratch;
use tokio::sync::Semaphore;

use crate::metrics;

/// Runs hashing on threads that may block, a few at a time: each takes its 19 MiB and a processor.
#[derive(Debug)]
pub struct Hasher {
    /// All that run or wait.
    admitted: Arc<Semaphore>,
    /// Those that run.
    running: Arc<Semaphore>,
    /// Memory of those that do not run at the moment.
    scratches: Arc<Mutex<Vec<Scratch>>>,
}

/// Too many passwords wait to be hashed, or the process ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many logins wait for their password to be hashed")]
pub struct Busy;

impl Hasher {
    /// Hashes at most `parallel` passwords at once while at most `waiting` more wait.
    pub fn new(parallel: usize, waiting: usize) -> Self {
        Self {
            admitted: Arc::new(Semaphore::new(parallel + waiting)),
            running: Arc::new(Semaphore::new(parallel)),
            scratches: Arc::default(),
        }
    }

    /// Runs `work` when its turn comes; [`Busy`] at once when the queue is full.
    ///
    /// Work that has begun keeps its place even when nobody waits for it any more.
    pub async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Scratch) -> T + Send + 'static,
    ) -> Result<T, Busy> {
        let begin = Instant::now();
        let admitted = Arc::clone(&self.admitted).try_acquire_owned().map_err(|_| Busy)?;
        let running = Arc::clone(&self.running)
            .acquire_owned()
            .await
            .map_err(|_| Busy)?;
        let scratches = Arc::clone(&self.scratches);
        tokio::task::spawn_blocking(move || {
            let lock = || scratches.lock().unwrap_or_else(PoisonError::into_inner);
            let free = lock().pop();
            let mut scratch = free.unwrap_or_default();
            let result = work(&mut scratch);
            lock().push(scratch);
            drop((running, admitted));
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
        let hasher = Arc::new(Hasher::new(2, 3));
        let (release, gate) = mpsc::channel::<()>();
        let gate = Arc::new(std::sync::Mutex::new(gate));
        let (now, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
        let tasks: Vec<_> = (0..5)
            .map(|_| {
                let (hasher, gate) = (Arc::clone(&hasher), Arc::clone(&gate));
                let (now, most) = (Arc::clone(&now), Arc::clone(&most));
                tokio::spawn(async move {
                    hasher
                        .run(move |_| {
                            most.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                            gate.lock().unwrap().recv().unwrap();
                            now.fetch_sub(1, Ordering::SeqCst);
                        })
                        .await
                })
            })
            .collect();
        while hasher.admitted.available_permits() > 0 || now.load(Ordering::SeqCst) < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(hasher.run(|_| ()).await, Err(Busy));
        for _ in 0..5 {
            release.send(()).unwrap();
        }
        for task in tasks {
            assert_eq!(task.await.unwrap(), Ok(()));
        }
        assert_eq!(most.load(Ordering::SeqCst), 2);
        assert_eq!(hasher.run(|_| 7).await, Ok(7));
    }
}
