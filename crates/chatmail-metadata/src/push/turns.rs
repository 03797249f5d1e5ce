//! Fair turns between accounts.

use std::collections::{HashMap, VecDeque};

/// An account, as a keyed hash.
pub(super) type Account = u64;

/// One device of one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key {
    /// The account, as a keyed hash.
    pub(super) account: Account,
    /// The token, as a keyed hash.
    pub(super) token: u64,
}

/// First and repeated requests wait separately, so that failing ones do not delay new ones.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lane {
    /// The request was never tried.
    First,
    /// The request has failed before.
    Repeat,
}

/// The requests that are ready, and the number in progress. All operations take constant time.
#[derive(Debug)]
pub(super) struct Turns {
    requests: usize,
    repeats: usize,
    per_account: usize,
    first: Rotation,
    repeat: Rotation,
    sending: usize,
    repeating: usize,
    sending_for: HashMap<Account, usize>,
    /// Whether the last request was a repeated one: the lanes alternate.
    last_repeat: bool,
}

impl Turns {
    /// Starts without requests; the limits are those of [`super::Limits`].
    pub(super) fn new(requests: usize, repeats: usize, per_account: usize) -> Self {
        Self {
            requests,
            repeats,
            per_account,
            first: Rotation::default(),
            repeat: Rotation::default(),
            sending: 0,
            repeating: 0,
            sending_for: HashMap::new(),
            last_repeat: false,
        }
    }

    /// Adds a request that is ready.
    pub(super) fn add(&mut self, lane: Lane, key: Key) {
        let free = self.is_free(key.account);
        let rotation = self.lane(lane);
        rotation
            .queues
            .entry(key.account)
            .or_default()
            .keys
            .push_back(key);
        if free {
            rotation.enlist(key.account);
        }
    }

    /// Takes the next request that may be sent; it counts as in progress until [`Self::release`].
    pub(super) fn take(&mut self) -> Option<(Lane, Key)> {
        if self.sending >= self.requests {
            return None;
        }
        let order = if self.last_repeat {
            [Lane::First, Lane::Repeat]
        } else {
            [Lane::Repeat, Lane::First]
        };
        for lane in order {
            if lane == Lane::Repeat && self.repeating >= self.repeats {
                continue;
            }
            if let Some(key) = self.take_from(lane) {
                self.sending += 1;
                self.repeating += usize::from(lane == Lane::Repeat);
                self.last_repeat = lane == Lane::Repeat;
                return Some((lane, key));
            }
        }
        None
    }

    /// Ends a request from [`Self::take`].
    pub(super) fn release(&mut self, lane: Lane, account: Account) {
        self.sending = self.sending.saturating_sub(1);
        if lane == Lane::Repeat {
            self.repeating = self.repeating.saturating_sub(1);
        }
        if let Some(count) = self.sending_for.get_mut(&account) {
            *count = count.saturating_sub(1);
            if *count == 0 {
                self.sending_for.remove(&account);
            }
        }
        self.first.enlist(account);
        self.repeat.enlist(account);
    }

    fn take_from(&mut self, lane: Lane) -> Option<Key> {
        loop {
            let account = self.lane(lane).order.pop_front()?;
            let free = self.is_free(account);
            let rotation = self.lane(lane);
            let Some(queue) = rotation.queues.get_mut(&account) else {
                continue;
            };
            queue.enlisted = false;
            // An account at its limit returns when one of its requests ends.
            if !free {
                continue;
            }
            let key = queue.keys.pop_front();
            if queue.keys.is_empty() {
                rotation.queues.remove(&account);
            }
            if let Some(key) = key {
                *self.sending_for.entry(account).or_default() += 1;
                if self.is_free(account) {
                    self.lane(lane).enlist(account);
                }
                return Some(key);
            }
        }
    }

    fn is_free(&self, account: Account) -> bool {
        self.sending_for
            .get(&account)
            .is_none_or(|count| *count < self.per_account)
    }

    fn lane(&mut self, lane: Lane) -> &mut Rotation {
        match lane {
            Lane::First => &mut self.first,
            Lane::Repeat => &mut self.repeat,
        }
    }
}

#[derive(Debug, Default)]
struct Rotation {
    order: VecDeque<Account>,
    queues: HashMap<Account, Ready>,
}

#[derive(Debug, Default)]
struct Ready {
    keys: VecDeque<Key>,
    /// Whether the account is in the order.
    enlisted: bool,
}

impl Rotation {
    /// Appends an account to the order if it has a request that is ready and is not in the order yet.
    fn enlist(&mut self, account: Account) {
        if let Some(queue) = self.queues.get_mut(&account)
            && !queue.enlisted
            && !queue.keys.is_empty()
        {
            queue.enlisted = true;
            self.order.push_back(account);
        }
    }
}
