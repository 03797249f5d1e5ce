//! The mail store: a walk over all mailboxes with a few threads, and the removal of whole accounts by the expiry rules.

use std::ffi::{CStr, OsStr};
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chatmail_core::Address;
use chatmail_core::account::{Account, MailStore};
use chatmail_core::maildir::{Mailbox, Problem};
pub use chatmail_core::removal::Removal;
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;

use crate::output::Log;
use crate::plan::{AccountVerdict, Rules};

/// Maximum number of threads. More of them only make the disk seek; each keeps one mailbox open.
const MAX_THREADS: usize = 8;

/// The folder of all mailboxes, open.
#[derive(Debug)]
pub struct Store {
    fd: OwnedFd,
    accounts: MailStore,
}

impl Store {
    /// Opens the store; none if its folder does not exist, as before the first account.
    pub fn open(path: &Path) -> Result<Option<Self>, Problem> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self {
                fd,
                accounts: MailStore::new(path),
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(source) => Err(Problem::new(path, source)),
        }
    }

    /// Opens one mailbox; none if there is no such folder.
    pub fn mailbox(&self, name: &CStr) -> Result<Option<Mailbox>, Problem> {
        Mailbox::open(&self.fd, self.accounts.dir(), name)
    }

    /// Visits the mailboxes, but no more than `limit`. Each thread collects into its own value; returns all values.
    /// Names are read as they are needed, so memory does not grow with their number.
    pub fn visit<T: Send>(
        &self,
        limit: Option<usize>,
        empty: impl Fn() -> T + Sync,
        visit: impl Fn(&mut T, &CStr) + Sync,
    ) -> Result<Vec<T>, Problem> {
        let mut dir = self.entries()?;
        let names = Mutex::new(
            dir.iter()
                .map(|entry| entry.map(|entry| is_mailbox(&entry).then(|| entry.file_name().to_owned())))
                .filter_map(Result::transpose)
                .take(limit.unwrap_or(usize::MAX)),
        );
        let next = || {
            names
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .next()
                .transpose()
        };
        let work = || {
            let mut gathered = empty();
            while let Some(name) = next()? {
                visit(&mut gathered, &name);
            }
            Ok(gathered)
        };
        let threads = std::thread::available_parallelism()
            .map_or(1, NonZero::get)
            .min(MAX_THREADS);
        std::thread::scope(|scope| {
            let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
            running
                .into_iter()
                .map(|thread| match thread.join() {
                    Ok(result) => result.map_err(|source: Errno| Problem::new(self.accounts.dir(), source)),
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        })
    }

    /// Whether a folder without a password file is empty or was left by an interrupted creation.
    pub fn is_remains(&self, name: &CStr) -> Result<bool, Problem> {
        match self.account(name).map(|account| account.is_remains()) {
            Some(Err(source)) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Some(found) => found.map_err(|source| Problem::new(self.path(name), source)),
            None => Ok(false),
        }
    }

    /// Removes such a folder; false if it contains anything else or an account is being created in it.
    pub fn remove_remains(&self, name: &CStr) -> Result<bool, Problem> {
        let Some(account) = self.account(name) else {
            return Ok(false);
        };
        let removed = account.try_lock().and_then(|lock| match lock {
            Some(_lock) => account.remove_remains(),
            None => Ok(false),
        });
        removed.map_err(|source| Problem::new(self.path(name), source))
    }

    /// The account of a folder; none if its name is not an address.
    fn account(&self, name: &CStr) -> Option<Account> {
        let address = Address::parse(name.to_str().ok()?).ok()?;
        Some(self.accounts.account(&address))
    }

    /// Removes an account that was found inactive, unless somebody logs in at the same moment.
    pub fn remove_inactive(&self, name: &CStr, rules: &Rules) -> Result<Removal, Problem> {
        self.accounts.remove_inactive(name, is_inactive(rules))
    }

    /// Finishes removals that an earlier run could not finish.
    pub fn finish_removals(&self, rules: &Rules, log: &Log) -> Result<(), Problem> {
        self.accounts
            .finish_removals(is_inactive(rules), |problem| log.problem(problem))
    }

    fn entries(&self) -> Result<Dir, Problem> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // A new descriptor: each reader needs its own position.
        Dir::openat(&self.fd, c".", flags, Mode::empty())
            .map_err(|source| Problem::new(self.accounts.dir(), source))
    }

    fn path(&self, name: &CStr) -> PathBuf {
        self.accounts.dir().join(OsStr::from_bytes(name.to_bytes()))
    }
}

/// Mailboxes are folders named like an address; a symbolic link to a folder is not a mailbox.
fn is_mailbox(entry: &nix::dir::Entry) -> bool {
    let name = entry.file_name().to_bytes();
    !name.starts_with(b".")
        && name.contains(&b'@')
        && entry.file_type().is_none_or(|kind| kind == Type::Directory)
}

/// Whether an account is removed because of the second of its last login.
fn is_inactive(rules: &Rules) -> impl Fn(i64) -> bool {
    |login| rules.account(Some(login)) == AccountVerdict::Inactive
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn every_mailbox_is_visited_once_whatever_the_number_of_threads() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap().unwrap();
        for number in 0..1000 {
            fs::create_dir(dir.path().join(format!("user{number:05}@chat.example.org"))).unwrap();
        }
        fs::create_dir(dir.path().join(".removing-x@chat.example.org")).unwrap();
        fs::write(dir.path().join("file@chat.example.org"), "").unwrap();
        let visit = |limit| {
            let gathered = store
                .visit(limit, Vec::new, |seen: &mut Vec<_>, name| {
                    seen.push(name.to_owned())
                })
                .unwrap();
            let mut names: Vec<_> = gathered.into_iter().flatten().collect();
            names.sort();
            names.dedup();
            names.len()
        };
        assert_eq!((visit(None), visit(Some(10)), visit(Some(0))), (1000, 10, 0));
    }
}
