//! Sums of the mail store.

use std::ffi::CStr;
use std::ops::AddAssign;

use chatmail_core::maildir::{Found, Metadata, Part};

use crate::output::Log;
use crate::plan::DAY;
use crate::store::Store;

/// Minimum sizes in bytes for which messages are summed up.
pub const SIZES: [u64; 7] = [0, 100 << 10, 512 << 10, 1 << 20, 2 << 20, 5 << 20, 10 << 20];

/// Periods in days for which logins are counted.
pub const DAYS: [u16; 7] = [1, 10, 30, 40, 80, 100, 150];

/// The messages that are counted by size; the totals always include all messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Scope {
    /// Second from which days are counted back.
    pub now: i64,
    /// Minimum age in days of the account's last login.
    pub min_login_age: u32,
    /// The part of the folder in which a message has to be, if only one is counted.
    pub part: Option<Part>,
}

/// Numbers of accounts. An account is a mailbox with a password file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Accounts {
    /// All accounts.
    pub all: u64,
    /// Accounts of automatic tests, whose addresses begin with `ci-`.
    pub ci: u64,
}

/// Messages of at least a certain size.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Messages {
    /// Sum of their sizes in bytes.
    pub bytes: u64,
    /// Their number.
    pub count: u64,
}

/// The contents of the mail store.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Report {
    /// Size of all messages in bytes.
    pub message_bytes: u64,
    /// Size of all other files in bytes.
    pub extra_bytes: u64,
    /// Messages by minimum size, as in [`SIZES`].
    pub by_size: [Messages; SIZES.len()],
    /// Accounts.
    pub accounts: Accounts,
    /// Accounts, without those of tests, with a login in the periods of [`DAYS`].
    pub active: [u64; DAYS.len()],
}

impl Accounts {
    /// Counts an account.
    pub fn add(&mut self, name: &CStr) {
        self.all += 1;
        self.ci += u64::from(is_ci(name));
    }

    /// Accounts without those of tests.
    pub fn users(&self) -> u64 {
        self.all.saturating_sub(self.ci)
    }
}

impl Report {
    fn add_login(&mut self, name: &CStr, last_login: i64, now: i64) {
        self.accounts.add(name);
        if is_ci(name) {
            return;
        }
        for (active, days) in self.active.iter_mut().zip(DAYS) {
            *active += u64::from(last_login >= now - i64::from(days) * DAY);
        }
    }

    fn add_message(&mut self, metadata: Metadata, by_size: bool) {
        self.message_bytes += metadata.bytes;
        if !by_size {
            return;
        }
        for (messages, size) in self.by_size.iter_mut().zip(SIZES) {
            if metadata.bytes >= size {
                messages.bytes += metadata.bytes;
                messages.count += 1;
            }
        }
    }
}

impl AddAssign for Accounts {
    fn add_assign(&mut self, other: Self) {
        self.all += other.all;
        self.ci += other.ci;
    }
}

impl AddAssign for Report {
    fn add_assign(&mut self, other: Self) {
        self.message_bytes += other.message_bytes;
        self.extra_bytes += other.extra_bytes;
        for (mine, others) in self.by_size.iter_mut().zip(other.by_size) {
            mine.bytes += others.bytes;
            mine.count += others.count;
        }
        self.accounts += other.accounts;
        for (mine, others) in self.active.iter_mut().zip(other.active) {
            *mine += others;
        }
    }
}

/// Adds one mailbox to the report.
pub fn add_mailbox(report: &mut Report, store: &Store, name: &CStr, scope: &Scope, log: &Log) {
    let mailbox = match store.mailbox(name) {
        Ok(Some(mailbox)) => mailbox,
        Ok(None) => return,
        Err(problem) => return log.problem(&problem),
    };
    let last_login = mailbox.last_login().unwrap_or_else(|problem| {
        log.problem(&problem);
        None
    });
    if let Some(last_login) = last_login {
        report.add_login(name, last_login, scope.now);
    }
    let login_before = scope.now - i64::from(scope.min_login_age) * DAY;
    let in_scope = last_login.is_some_and(|login| login <= login_before);
    mailbox.files(&mut |found| match found {
        Found::Message(message) => match message.metadata() {
            Ok(Some(metadata)) => {
                let part = message.dir.part();
                report.add_message(metadata, in_scope && scope.part.is_none_or(|only| only == part));
            }
            Ok(None) => {}
            Err(problem) => log.problem(&problem),
        },
        Found::Extra(bytes) => report.extra_bytes += bytes,
        Found::Problem(problem) => log.problem(&problem),
    });
}

/// Counts one account without reading its messages.
pub fn count_account(accounts: &mut Accounts, store: &Store, name: &CStr, log: &Log) {
    let login = store
        .mailbox(name)
        .and_then(|mailbox| mailbox.map_or(Ok(None), |mailbox| mailbox.last_login()));
    match login {
        Ok(Some(_)) => accounts.add(name),
        Ok(None) => {}
        Err(problem) => log.problem(&problem),
    }
}

fn is_ci(name: &CStr) -> bool {
    name.to_bytes().starts_with(b"ci-")
}
