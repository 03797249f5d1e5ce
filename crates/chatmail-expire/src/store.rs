//! The mail store: all mailboxes, visited by a few threads, and the removal of whole accounts.

use std::ffi::{CStr, CString, OsStr};
use std::io;
use std::num::NonZero;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use chatmail_core::Address;
use chatmail_core::account::{Account, MailStore};
use chatmail_core::maildir::{Mailbox, Problem};
use nix::dir::{Dir, Type};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, renameat};
use nix::sys::stat::Mode;

use crate::output::Log;
use crate::plan::{AccountVerdict, Rules};

/// Most threads. More only make the disk seek; each holds one mailbox open.
const MAX_THREADS: usize = 8;

/// Prefix of the hidden name that an account gets before its folder is emptied: from that moment on it is no account
/// any more, neither for Dovecot nor for doveauth, whatever then interrupts the removal.
const ASIDE: &[u8] = chatmail_core::account::REMOVED_PREFIX.as_bytes();

/// The folder of all mailboxes, held open.
#[derive(Debug)]
pub struct Store {
    fd: OwnedFd,
    path: PathBuf,
}

/// What became of an account that was to be removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// It is gone.
    Removed,
    /// Somebody logged in meanwhile, or it vanished by other means.
    Spared,
}

impl Store {
    /// Opens the store; none when its folder does not exist, as before the first account.
    pub fn open(path: &Path) -> Result<Option<Self>, Problem> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        match open(path, flags, Mode::empty()) {
            Ok(fd) => Ok(Some(Self {
                fd,
                path: path.to_owned(),
            })),
            Err(Errno::ENOENT) => Ok(None),
            Err(source) => Err(Problem::new(path, source)),
        }
    }

    /// Opens one mailbox; none when there is no such folder.
    pub fn mailbox(&self, name: &CStr) -> Result<Option<Mailbox>, Problem> {
        Mailbox::open(&self.fd, &self.path, name)
    }

    /// Visits the mailboxes, the first `limit` ones if there are more. Each thread gathers into a value of its own;
    /// the values come back when all are done. Names are read as they are needed, however many there are.
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
                    Ok(result) => result.map_err(|source: Errno| Problem::new(&self.path, source)),
                    Err(panic) => std::panic::resume_unwind(panic),
                })
                .collect()
        })
    }

    /// Whether a folder without a password file is empty, or what a creation left that broke off.
    pub fn is_remains(&self, name: &CStr) -> Result<bool, Problem> {
        match self.account(name).map(|account| account.is_remains()) {
            Some(Err(source)) if source.kind() == io::ErrorKind::NotFound => Ok(false),
            Some(found) => found.map_err(|source| Problem::new(self.path(name), source)),
            None => Ok(false),
        }
    }

    /// Removes such a folder; false when it is something else, or an account is being created in it right now.
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

    /// The account of a folder; none when no address is named like it.
    fn account(&self, name: &CStr) -> Option<Account> {
        let address = Address::parse(name.to_str().ok()?).ok()?;
        Some(MailStore::new(&self.path).account(&address))
    }

    /// Removes an account that was found inactive. A login at the same moment wins: the last login is read again
    /// before the folder is moved aside, and once more when nobody can reach it any more.
    pub fn remove_inactive(&self, name: &CStr, rules: &Rules) -> Result<Removal, Problem> {
        if !self.is_inactive(name, rules)? {
            return Ok(Removal::Spared);
        }
        let aside = aside(name);
        match self.rename(name, &aside) {
            Err(problem) if problem.source.kind() == io::ErrorKind::NotFound => return Ok(Removal::Spared),
            moved => moved?,
        }
        if !self.is_inactive(&aside, rules)? {
            self.rename(&aside, name)?;
            return Ok(Removal::Spared);
        }
        self.remove_tree(&aside)?;
        Ok(Removal::Removed)
    }

    /// Ends removals that an earlier run could not end.
    pub fn finish_removals(&self, rules: &Rules, log: &Log) -> Result<(), Problem> {
        let mut dir = self.entries()?;
        let mut left = Vec::new();
        for entry in dir.iter() {
            let entry = entry.map_err(|source| Problem::new(&self.path, source))?;
            if entry.file_name().to_bytes().starts_with(ASIDE) {
                left.push(entry.file_name().to_owned());
            }
        }
        for aside in left {
            let done = match self.mailbox(&aside) {
                // The run ended between moving the folder and looking again.
                Ok(Some(mailbox)) => match mailbox.last_login() {
                    Ok(login) if rules.account(login) == AccountVerdict::Keep => {
                        let name = aside.to_bytes().strip_prefix(ASIDE).map(CString::new);
                        match name {
                            Some(Ok(name)) => self.rename(&aside, &name),
                            _ => Ok(()),
                        }
                    }
                    Ok(_) => self.remove_tree(&aside),
                    Err(problem) => Err(problem),
                },
                Ok(None) => Ok(()),
                Err(problem) => Err(problem),
            };
            if let Err(problem) = done {
                log.problem(&problem);
            }
        }
        Ok(())
    }

    fn entries(&self) -> Result<Dir, Problem> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        // Opened anew: each reader has a position of its own.
        Dir::openat(&self.fd, c".", flags, Mode::empty()).map_err(|source| Problem::new(&self.path, source))
    }

    fn is_inactive(&self, name: &CStr, rules: &Rules) -> Result<bool, Problem> {
        let Some(mailbox) = self.mailbox(name)? else {
            return Ok(false);
        };
        Ok(rules.account(mailbox.last_login()?) == AccountVerdict::Inactive)
    }

    /// A folder that is not empty is never replaced (rename(2)).
    fn rename(&self, from: &CStr, to: &CStr) -> Result<(), Problem> {
        renameat(&self.fd, from, &self.fd, to).map_err(|source| Problem::new(self.path(from), source))
    }

    /// The standard library's removal does not follow symbolic links either, nor races for them.
    fn remove_tree(&self, name: &CStr) -> Result<(), Problem> {
        let path = self.path(name);
        match std::fs::remove_dir_all(&path) {
            Err(source) if source.kind() != io::ErrorKind::NotFound => Err(Problem { path, source }),
            _ => Ok(()),
        }
    }

    fn path(&self, name: &CStr) -> PathBuf {
        self.path.join(OsStr::from_bytes(name.to_bytes()))
    }
}

/// Mailboxes are folders named like an address; symbolic links to folders are none.
fn is_mailbox(entry: &nix::dir::Entry) -> bool {
    let name = entry.file_name().to_bytes();
    !name.starts_with(b".")
        && name.contains(&b'@')
        && entry.file_type().is_none_or(|kind| kind == Type::Directory)
}

fn aside(name: &CStr) -> CString {
    let mut hidden = ASIDE.to_vec();
    hidden.extend_from_slice(name.to_bytes());
    // Bytes of a C string hold no NUL; without one this cannot fail.
    CString::new(hidden).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatmail_core::settings::Expire;
    use std::fs::{self, File};
    use std::time::{Duration, SystemTime};

    const NAME: &CStr = c"user12345@chat.example.org";

    fn store() -> (tempfile::TempDir, Store, Rules) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap().unwrap();
        let settings = Expire {
            delete_mails_after: 20,
            delete_large_after: 7,
            large_message_size: 200_000,
            delete_inactive_users_after: 90,
            mailbox_quota: 1000,
            max_messages: 100,
        };
        let now = crate::output::unix_seconds(SystemTime::now());
        (dir, store, Rules::new(&settings, now))
    }

    fn login(folder: &Path, days_ago: u64) {
        fs::create_dir_all(folder).unwrap();
        File::create(folder.join("password"))
            .unwrap()
            .set_modified(SystemTime::now() - Duration::from_secs(days_ago * 86_400))
            .unwrap();
    }

    #[test]
    fn a_login_since_the_decision_spares_the_account() {
        let (dir, store, rules) = store();
        let folder = dir.path().join(NAME.to_str().unwrap());
        login(&folder, 0);
        assert_eq!(store.remove_inactive(NAME, &rules).unwrap(), Removal::Spared);
        assert!(folder.join("password").exists());
        login(&folder, 91);
        assert_eq!(store.remove_inactive(NAME, &rules).unwrap(), Removal::Removed);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert_eq!(
            store.remove_inactive(NAME, &rules).unwrap(),
            Removal::Spared,
            "vanished"
        );
    }

    #[test]
    fn an_account_made_anew_is_not_replaced_by_its_old_self() {
        let (dir, store, rules) = store();
        login(&dir.path().join(NAME.to_str().unwrap()), 0);
        let old = dir.path().join(aside(NAME).to_str().unwrap());
        login(&old, 0);
        let log = Log::new(false);
        store.finish_removals(&rules, &log).unwrap();
        assert_eq!(log.problems(), 1, "nobody but the operator can decide");
        assert!(old.join("password").exists());
    }

    #[test]
    fn every_mailbox_is_visited_once_whatever_the_number_of_threads() {
        let (dir, store, _) = store();
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
