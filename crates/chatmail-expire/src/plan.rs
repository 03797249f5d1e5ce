//! Decides which messages and accounts are removed.

use std::collections::BinaryHeap;

use chatmail_core::maildir::{Metadata, Part};
use chatmail_core::settings::Mailboxes;

/// Seconds of a day.
pub const DAY: i64 = 24 * 60 * 60;

/// The settings at one point in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rules {
    old_before: i64,
    large_before: i64,
    large_above: u64,
    inactive_before: i64,
    /// Second after which delivered messages are never removed for the quota. Something is probably wrong with a
    /// mailbox that fills within a day, and its owner should see that it is full.
    pub trim_until: i64,
    /// Size in bytes to which a larger mailbox is reduced.
    pub trim_to: u64,
    /// Number of messages to which a larger mailbox is reduced.
    pub trim_messages_to: u64,
}

/// The decision on a message by its age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MessageVerdict {
    /// The message is kept.
    Keep,
    /// The message is removed, like every message of this age.
    Old,
    /// The message is removed because it is large and a client has noticed it.
    Large,
}

/// The decision on an account by its last login.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccountVerdict {
    /// The account is kept, and the rules apply to its messages.
    Keep,
    /// The account is removed with all of its mail.
    Inactive,
    /// The folder has no password file, so it is not an account; it is removed if it is empty.
    NoAccount,
}

impl Rules {
    /// The rules at the second `now`.
    pub fn new(settings: &Mailboxes, now: i64) -> Self {
        let before = |days: u32| now.saturating_sub(i64::from(days) * DAY);
        let part = |whole: u64| whole / 100 * settings.trim_to_percent;
        Self {
            old_before: before(settings.delete_messages_after),
            large_before: before(settings.delete_large_messages_after),
            large_above: settings.large_message_size,
            inactive_before: before(settings.delete_inactive_accounts_after),
            trim_until: now.saturating_sub(DAY),
            trim_to: part(settings.quota),
            trim_messages_to: part(settings.max_messages),
        }
    }

    /// Decides on a message. A large message that no client has noticed is kept until it is old: its reader has not
    /// been online since it arrived.
    pub fn message(&self, part: Part, metadata: Metadata) -> MessageVerdict {
        if metadata.modified < self.old_before {
            MessageVerdict::Old
        } else if part == Part::Cur
            && metadata.bytes > self.large_above
            && metadata.modified < self.large_before
        {
            MessageVerdict::Large
        } else {
            MessageVerdict::Keep
        }
    }

    /// Decides on an account by the second of its last login.
    pub fn account(&self, last_login: Option<i64>) -> AccountVerdict {
        match last_login {
            None => AccountVerdict::NoAccount,
            Some(login) if login < self.inactive_before => AccountVerdict::Inactive,
            Some(_) => AccountVerdict::Keep,
        }
    }
}

/// Chooses the oldest messages whose sizes together reach the excess of a mailbox over its target.
///
/// Messages are offered in any order; only candidates for removal stay in memory.
#[derive(Debug)]
pub struct Trim<T> {
    excess: u64,
    until: i64,
    limit: usize,
    chosen: BinaryHeap<Candidate<T>>,
    bytes: u64,
}

/// A message that may be removed for the quota. The oldest comes first; of equally old messages, the smallest.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Candidate<T> {
    /// Second of the delivery.
    pub delivered: i64,
    /// Bytes that count against the quota.
    pub bytes: u64,
    /// The message.
    pub message: T,
}

impl<T: Ord> Trim<T> {
    /// Chooses messages delivered no later than `until` that free at least `excess` bytes, but at most `limit`
    /// messages: the caller repeats this if they are not enough.
    pub fn new(excess: u64, until: i64, limit: usize) -> Self {
        Self {
            excess,
            until,
            limit,
            chosen: BinaryHeap::new(),
            bytes: 0,
        }
    }

    /// Considers a message; `message` is called only if the message becomes a candidate.
    pub fn offer(&mut self, delivered: i64, bytes: u64, message: impl FnOnce() -> T) {
        if self.excess == 0 || delivered > self.until {
            return;
        }
        let enough = self.bytes >= self.excess || self.chosen.len() >= self.limit;
        if enough
            && self
                .chosen
                .peek()
                .is_some_and(|newest| (newest.delivered, newest.bytes) < (delivered, bytes))
        {
            return;
        }
        self.bytes = self.bytes.saturating_add(bytes);
        self.chosen.push(Candidate {
            delivered,
            bytes,
            message: message(),
        });
        while let Some(newest) = self.chosen.peek()
            && (self.chosen.len() > self.limit || self.bytes.saturating_sub(newest.bytes) >= self.excess)
        {
            self.bytes = self.bytes.saturating_sub(newest.bytes);
            self.chosen.pop();
        }
    }

    /// The chosen messages, oldest first.
    pub fn into_oldest_first(self) -> Vec<Candidate<T>> {
        self.chosen.into_sorted_vec()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const NOW: i64 = 1_800_000_000;

    fn mailboxes() -> Mailboxes {
        Mailboxes {
            directory: "/nonexistent".into(),
            delete_messages_after: 20,
            delete_large_messages_after: 7,
            large_message_size: 200_000,
            delete_inactive_accounts_after: 90,
            quota: 1000,
            max_messages: 100,
            trim_to_percent: 70,
        }
    }

    fn rules() -> Rules {
        Rules::new(&mailboxes(), NOW)
    }

    fn message(part: Part, days: i64, more_seconds: i64, bytes: u64) -> MessageVerdict {
        let modified = NOW - days * DAY - more_seconds;
        rules().message(part, Metadata { modified, bytes })
    }

    #[test]
    fn old_messages_go_from_every_part() {
        for part in Part::ALL {
            assert_eq!(message(part, 20, 0, 1), MessageVerdict::Keep);
            assert_eq!(message(part, 20, 1, 1), MessageVerdict::Old);
            assert_eq!(message(part, 20, 1, 1 << 30), MessageVerdict::Old);
        }
    }

    #[test]
    fn large_messages_go_earlier_once_they_were_noticed() {
        assert_eq!(message(Part::Cur, 7, 1, 200_001), MessageVerdict::Large);
        assert_eq!(message(Part::Cur, 7, 1, 200_000), MessageVerdict::Keep);
        assert_eq!(message(Part::Cur, 7, 0, 200_001), MessageVerdict::Keep);
        assert_eq!(message(Part::New, 7, 1, 200_001), MessageVerdict::Keep);
        assert_eq!(message(Part::Tmp, 7, 1, 200_001), MessageVerdict::Keep);
    }

    #[test]
    fn accounts_go_by_their_last_login() {
        let account = |login| rules().account(login);
        assert_eq!(account(None), AccountVerdict::NoAccount);
        assert_eq!(account(Some(NOW - 90 * DAY)), AccountVerdict::Keep);
        assert_eq!(account(Some(NOW - 90 * DAY - 1)), AccountVerdict::Inactive);
        assert_eq!(account(Some(NOW + DAY)), AccountVerdict::Keep);
    }

    #[test]
    fn trimming_leaves_the_share_of_the_settings() {
        assert_eq!(rules().trim_to, 700);
        assert_eq!(rules().trim_messages_to, 70);
        assert_eq!(rules().trim_until, NOW - DAY);
    }

    /// The reference implementation: sort, then remove messages until the rest fits.
    fn sorted_prefix(mut all: Vec<(i64, u64, usize)>, excess: u64, until: i64) -> Vec<usize> {
        all.sort_unstable();
        let mut freed = 0;
        let mut gone = Vec::new();
        for (delivered, bytes, id) in all {
            if freed >= excess || delivered > until {
                break;
            }
            freed += bytes;
            gone.push(id);
        }
        gone
    }

    fn chosen(all: &[(i64, u64, usize)], excess: u64, until: i64, limit: usize) -> Vec<usize> {
        let mut trim = Trim::new(excess, until, limit);
        for &(delivered, bytes, id) in all {
            trim.offer(delivered, bytes, || id);
        }
        trim.into_oldest_first().into_iter().map(|c| c.message).collect()
    }

    proptest! {
        #[test]
        fn trim_chooses_what_sorting_would(
            records in proptest::collection::vec((0_i64..20, 0_u64..5), 0..60),
            excess in 0_u64..120,
            until in 0_i64..25,
            limit in 1_usize..70,
        ) {
            let all: Vec<_> = records.iter().enumerate().map(|(id, &(d, b))| (d, b, id)).collect();
            let mut expected = sorted_prefix(all.clone(), excess, until);
            prop_assert_eq!(&chosen(&all, excess, until, usize::MAX), &expected);
            // With a limit it is the same choice, cut off.
            expected.truncate(limit);
            prop_assert_eq!(chosen(&all, excess, until, limit), expected);
        }

        #[test]
        fn nothing_younger_than_a_day_is_ever_trimmed(
            ages in proptest::collection::vec(0_i64..3 * DAY, 0..50), excess: u64,
        ) {
            let rules = rules();
            let all: Vec<_> = ages.iter().enumerate().map(|(id, age)| (NOW - age, 1, id)).collect();
            for id in chosen(&all, excess, rules.trim_until, 10) {
                prop_assert!(ages[id] >= DAY);
            }
        }

        #[test]
        fn a_later_day_never_keeps_more(part in 0_usize..3, age in 0..200 * DAY, bytes in 0_u64..400_000) {
            let metadata = Metadata { modified: NOW - age, bytes };
            let part = Part::ALL[part];
            let tomorrow = Rules::new(&mailboxes(), NOW + DAY);
            if rules().message(part, metadata) != MessageVerdict::Keep {
                prop_assert_ne!(tomorrow.message(part, metadata), MessageVerdict::Keep);
            }
        }
    }
}
