//! Allows one creation of an address at a time in this process.
//!
//! `Account::try_lock` excludes other processes; a task that waits here is woken and does not have to poll.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use chatmail_core::Address;
use tokio::sync::OwnedMutexGuard;

type ByAddress = Mutex<HashMap<Address, Arc<tokio::sync::Mutex<()>>>>;

/// Locks by address; only those that a task holds or waits for take memory.
#[derive(Debug, Default)]
pub struct Locks {
    by_address: Arc<ByAddress>,
}

/// Holds the lock of one address until dropped.
#[derive(Debug)]
pub struct Guard {
    address: Address,
    by_address: Arc<ByAddress>,
    lock: Option<OwnedMutexGuard<()>>,
}

impl Locks {
    /// Waits for the lock of an address.
    pub async fn acquire(&self, address: &Address) -> Guard {
        // Created before the wait, so that a cancelled wait cleans up too.
        let mut guard = Guard {
            address: address.clone(),
            by_address: Arc::clone(&self.by_address),
            lock: None,
        };
        let lock = Arc::clone(
            guard
                .by_address
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .entry(address.clone())
                .or_default(),
        );
        guard.lock = Some(lock.lock_owned().await);
        guard
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        let mut by_address = self.by_address.lock().unwrap_or_else(PoisonError::into_inner);
        self.lock = None;
        // New holders are added under the same mutex, so a count of one cannot grow meanwhile.
        if by_address
            .get(&self.address)
            .is_some_and(|lock| Arc::strong_count(lock) == 1)
        {
            by_address.remove(&self.address);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[tokio::test]
    async fn excludes_and_forgets() {
        let locks = Arc::new(Locks::default());
        let (one, two) = (
            Address::parse("one@chat.example.org").unwrap(),
            Address::parse("two@chat.example.org").unwrap(),
        );
        let held = locks.acquire(&one).await;
        drop(locks.acquire(&two).await);
        let waits = tokio::time::timeout(Duration::from_millis(10), locks.acquire(&one)).await;
        assert!(waits.is_err());
        let next = tokio::spawn({
            let locks = Arc::clone(&locks);
            let one = one.clone();
            async move { drop(locks.acquire(&one).await) }
        });
        drop(held);
        next.await.unwrap();
        assert!(locks.by_address.lock().unwrap().is_empty());
    }
}
