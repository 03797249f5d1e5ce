//! Permits for large messages, of which only a few are in memory at once.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chatmail_core::settings::LargeMessages;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::timeout;

/// Permits for large messages, and how many of them each holder has. Together with the number of connections, they bound
/// the memory of the process.
pub struct Large {
    limits: LargeMessages,
    permits: Arc<Semaphore>,
    /// Holders that have a permit or wait for one.
    shares: Mutex<HashMap<String, Arc<Semaphore>>>,
    wait: Duration,
}

/// Permit for one message.
pub struct Permit {
    _permit: OwnedSemaphorePermit,
    _shares: Vec<Share>,
}

/// One permit of a holder, or a place in the queue for it.
struct Share {
    large: Arc<Large>,
    holder: String,
    semaphore: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl Large {
    /// Nobody waits longer than this for a permit.
    pub fn new(limits: LargeMessages, wait: Duration) -> Arc<Self> {
        Arc::new(Self {
            limits,
            permits: Arc::new(Semaphore::new(limits.at_once)),
            shares: Mutex::default(),
            wait,
        })
    }

    /// Whether a message of this size needs a permit.
    pub fn concerns(&self, size: usize) -> bool {
        self.limits.include(size)
    }

    /// Permits of one holder: two holders together leave some for the others.
    fn share_of_each(&self) -> usize {
        self.limits.at_once / 2 - 1
    }

    /// Waits for a permit of all these holders. Those who have their share already do not wait in the common queue, so
    /// that others pass them. None after too long a wait.
    ///
    /// Callers name holders of different kinds in the same order, so that no two wait for each other.
    pub async fn permit(self: &Arc<Self>, holders: Vec<String>) -> Option<Permit> {
        let permit = async {
            let mut shares = Vec::with_capacity(holders.len());
            for holder in holders {
                let mut share = self.share(holder);
                share.permit = Arc::clone(&share.semaphore).acquire_owned().await.ok();
                shares.push(share);
            }
            let permit = Arc::clone(&self.permits).acquire_owned().await.ok()?;
            Some(Permit {
                _permit: permit,
                _shares: shares,
            })
        };
        timeout(self.wait, permit).await.ok().flatten()
    }

    fn share(self: &Arc<Self>, holder: String) -> Share {
        let mut shares = self.lock();
        let semaphore = shares
            .entry(holder.clone())
            .or_insert_with(|| Arc::new(Semaphore::new(self.share_of_each())));
        Share {
            large: Arc::clone(self),
            holder,
            semaphore: Arc::clone(semaphore),
            permit: None,
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Arc<Semaphore>>> {
        self.shares.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut shares = self.large.lock();
        self.permit = None;
        // The map and this share have one reference each.
        if Arc::strong_count(&self.semaphore) == 2 {
            shares.remove(&self.holder);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMITS: LargeMessages = LargeMessages {
        above: 100,
        at_once: 8,
    };
    const SHARE: usize = 3;

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn one_holder_leaves_permits_for_others() {
        let large = Large::new(LIMITS, Duration::from_secs(10));
        let one = || large.permit(names(&["a@a.test", "b.test"]));
        let mut held = Vec::new();
        for _ in 0..SHARE {
            held.push(one().await.unwrap());
        }
        assert!(one().await.is_none());
        // Neither the sender nor the destination has more by another combination.
        for holders in [["a@a.test", "c.test"], ["c@a.test", "b.test"]] {
            assert!(large.permit(names(&holders)).await.is_none(), "{holders:?}");
        }
        let others = ["d", "e"].map(|name| names(&[name]));
        for n in SHARE..LIMITS.at_once {
            held.push(large.permit(others[n % 2].clone()).await.unwrap());
        }
        assert!(large.permit(Vec::new()).await.is_none(), "more than all permits");
        // One that waits for its share keeps no place in the queue of the others.
        let waiting = tokio::spawn({
            let large = Arc::clone(&large);
            async move { large.permit(names(&["a@a.test"])).await }
        });
        tokio::task::yield_now().await;
        held.pop();
        held.push(large.permit(names(&["f"])).await.unwrap());
        held.remove(0);
        assert!(waiting.await.unwrap().is_some());
        drop(held);
        assert!(large.lock().is_empty(), "holders stay in memory");
        assert_eq!(large.permits.available_permits(), LIMITS.at_once);
    }

    #[tokio::test(start_paused = true)]
    async fn holders_that_give_up_are_forgotten() {
        let large = Large::new(LIMITS, Duration::from_secs(10));
        let mut held = Vec::new();
        for n in 0..LIMITS.at_once {
            held.push(large.permit(names(&[&n.to_string()])).await.unwrap());
        }
        let waiting: Vec<_> = (0..1000)
            .map(|n| {
                let large = Arc::clone(&large);
                tokio::spawn(async move { large.permit(vec![format!("{n} waits")]).await.is_none() })
            })
            .collect();
        for one in waiting {
            assert!(one.await.unwrap());
        }
        assert_eq!(large.lock().len(), LIMITS.at_once);
    }
}
