//! The folder of an account and the files in it that our services own.
//!
//! The layout is that of the reference relay, so that a mail store can be moved in and out unchanged:
//! `password` contains the hash, and its modification time is the day of the last login;
//! while `enforceE2EEincoming` exists, cleartext is rejected; all other files are Dovecot's.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use nix::fcntl::{Flock, FlockArg};

use crate::address::Address;
use crate::replace::Replacement;

/// File with the password hash in Dovecot's `{SCHEME}hash` form.
pub const PASSWORD_FILE: &str = "password";

/// File whose existence makes the account reject cleartext mail.
pub const ENFORCE_E2EE_FILE: &str = "enforceE2EEincoming";

/// Prefix of the name of a password file that is not complete.
const UNFINISHED_PREFIX: &str = ".password-";

/// Prefix of the hash of a banned account. No scheme begins with it, so every reader of the file rejects the hash.
const BAN: char = '!';

/// File in which Dovecot counts the messages of a mailbox.
const MAILDIRSIZE: &str = "maildirsize";

/// Maximum size of this file that is read; Dovecot starts a new one long before.
const MAX_MAILDIRSIZE: u64 = 64 * 1024;

const DAY: u64 = 24 * 60 * 60;

/// The folder that holds all accounts of a relay.
#[derive(Debug, Clone)]
pub struct MailStore {
    dir: PathBuf,
}

/// One account's folder; it may not exist yet.
#[derive(Debug, Clone)]
pub struct Account {
    dir: PathBuf,
}

/// The right to create an account or to change its password, until dropped or until the process exits. Dropping it
/// removes the folder if no account was created in it.
#[derive(Debug)]
pub struct AccountLock {
    folder: Flock<File>,
    dir: PathBuf,
}

impl AccountLock {
    /// Whether the locked folder is still the one at its path. If somebody removed it, the lock is worthless.
    fn holds(&self) -> io::Result<bool> {
        let locked = self.folder.metadata()?;
        match fs::metadata(&self.dir) {
            Ok(there) => Ok((there.dev(), there.ino()) == (locked.dev(), locked.ino())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }
}

impl Drop for AccountLock {
    fn drop(&mut self) {
        // Another process may have created and locked a new folder meanwhile.
        if self.holds().unwrap_or(false) {
            // Fails for every existing account, because its folder is not empty.
            let _ = fs::remove_dir(&self.dir);
        }
    }
}

impl MailStore {
    /// The store below `dir`.
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into() }
    }

    /// The folder of all accounts.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The account with this address, existing or not.
    pub fn account(&self, address: &Address) -> Account {
        Account {
            dir: self.dir.join(address.as_str()),
        }
    }

    /// Names of all folders that are addresses; other entries are skipped.
    pub fn addresses(&self) -> io::Result<Vec<Address>> {
        let mut found = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let name = entry.file_name();
            if let Some(address) = name.to_str().and_then(|name| Address::parse(name).ok())
                && entry.file_type()?.is_dir()
            {
                found.push(address);
            }
        }
        Ok(found)
    }
}

impl Account {
    /// The account's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Reads the password hash; none if the account does not exist.
    ///
    /// An empty file is an error, not an account without a password.
    pub fn password_hash(&self) -> io::Result<Option<String>> {
        let text = match fs::read_to_string(self.dir.join(PASSWORD_FILE)) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let hash = text.trim_end();
        if hash.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidData,
                "the password file is empty",
            ));
        }
        Ok(Some(hash.to_owned()))
    }

    fn create_dir(&self) -> io::Result<()> {
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&self.dir)
    }

    /// Locks the account against other processes with `flock(2)` on its folder, which is created if it is missing. None
    /// while another process holds the lock.
    pub fn try_lock(&self) -> io::Result<Option<AccountLock>> {
        loop {
            self.create_dir()?;
            let folder = match File::open(&self.dir) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                folder => folder?,
            };
            let folder = match Flock::lock(folder, FlockArg::LockExclusiveNonblock) {
                Ok(folder) => folder,
                Err((_, nix::Error::EWOULDBLOCK)) => return Ok(None),
                Err((_, error)) => return Err(error.into()),
            };
            let lock = AccountLock {
                folder,
                dir: self.dir.clone(),
            };
            if lock.holds()? {
                return Ok(Some(lock));
            }
        }
    }

    /// Creates the account. Needs the lock.
    ///
    /// The marker against cleartext is on disk before the password, and the password file appears complete or not at
    /// all: after a crash at any point, the account is complete or does not exist. If the creation fails, as on a full
    /// disk, nothing remains; what a crash leaves is removed by [`Self::remove_remains`].
    pub fn create(&self, password_hash: &str) -> io::Result<()> {
        let created = self.create_files(password_hash);
        if created.is_err() {
            // Report the first error.
            let _ = self.remove_remains();
        }
        created
    }

    fn create_files(&self, password_hash: &str) -> io::Result<()> {
        self.create_dir()?;
        File::create(self.dir.join(ENFORCE_E2EE_FILE))?.sync_all()?;
        // The entry of the marker has to be durable before that of the password.
        File::open(&self.dir)?.sync_all()?;
        self.set_password_hash(password_hash)?;
        // The entry of the account in the store.
        if let Some(store) = self.dir.parent() {
            File::open(store)?.sync_all()?;
        }
        Ok(())
    }

    /// Whether the folder contains only what a creation leaves that was interrupted before the password was written.
    pub fn is_remains(&self) -> io::Result<bool> {
        Ok(self.remains()?.is_some())
    }

    /// Removes what [`Self::is_remains`] finds; false if the folder contains an account or anything else. Needs the
    /// lock, because a creation may be in progress.
    pub fn remove_remains(&self) -> io::Result<bool> {
        let Some(remains) = self.remains()? else {
            return Ok(false);
        };
        for file in remains {
            fs::remove_file(file)?;
        }
        fs::remove_dir(&self.dir)?;
        Ok(true)
    }

    fn remains(&self) -> io::Result<Option<Vec<PathBuf>>> {
        let mut files = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            let entry = entry?;
            let unfinished = entry
                .file_name()
                .to_str()
                .is_some_and(|name| name == ENFORCE_E2EE_FILE || name.starts_with(UNFINISHED_PREFIX));
            if !unfinished || !entry.file_type()?.is_file() {
                return Ok(None);
            }
            files.push(entry.path());
        }
        Ok(Some(files))
    }

    /// Replaces the password hash atomically. The day of the last login stays.
    pub fn set_password_hash(&self, password_hash: &str) -> io::Result<()> {
        let path = self.dir.join(PASSWORD_FILE);
        let mut new = Replacement::with_mode(0o600).prefix(UNFINISHED_PREFIX);
        if let Ok(old) = fs::metadata(&path) {
            new = new.modified(old.modified()?);
        }
        new.write(&path, password_hash.as_bytes())
    }

    /// Makes every password wrong, and makes the account reject mail, until [`Self::unban`]. Needs the lock.
    pub fn ban(&self) -> io::Result<()> {
        match self.password_hash()? {
            Some(hash) if !is_banned(&hash) => self.set_password_hash(&format!("{BAN}{hash}")),
            _ => Ok(()),
        }
    }

    /// Restores the old password. Needs the lock.
    pub fn unban(&self) -> io::Result<()> {
        match self
            .password_hash()?
            .as_deref()
            .and_then(|hash| hash.strip_prefix(BAN))
        {
            Some(hash) => self.set_password_hash(hash),
            None => Ok(()),
        }
    }

    /// Bytes and number of messages that Dovecot counts against the quota; none before the first message.
    pub fn quota_use(&self) -> Option<(u64, u64)> {
        let mut text = String::new();
        let file = File::open(self.dir.join(MAILDIRSIZE)).ok()?;
        file.take(MAX_MAILDIRSIZE).read_to_string(&mut text).ok()?;
        let (mut bytes, mut messages) = (0_i64, 0_i64);
        // The first line is the quota.
        for line in text.lines().skip(1) {
            let mut numbers = line.split_whitespace().map(str::parse::<i64>);
            bytes = bytes.saturating_add(numbers.next()?.ok()?);
            messages = messages.saturating_add(numbers.next()?.ok()?);
        }
        Some((u64::try_from(bytes).ok()?, u64::try_from(messages).ok()?))
    }

    /// Whether this account rejects cleartext mail.
    pub fn enforces_e2ee(&self) -> bool {
        // An account whose marker cannot be examined counts as protected.
        !matches!(
            fs::symlink_metadata(self.dir.join(ENFORCE_E2EE_FILE)),
            Err(error) if error.kind() == io::ErrorKind::NotFound
        )
    }

    /// Day of the last login; none if the account does not exist.
    pub fn last_login(&self) -> io::Result<Option<SystemTime>> {
        match fs::metadata(self.dir.join(PASSWORD_FILE)) {
            Ok(metadata) => metadata.modified().map(Some),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Stores the UTC day of a login. Writes only if the day has changed and the account exists.
    pub fn set_last_login(&self, login: SystemTime) -> io::Result<()> {
        let day = day_of(login);
        match self.last_login()? {
            Some(stored) if stored != day => File::options()
                .append(true)
                .open(self.dir.join(PASSWORD_FILE))?
                .set_modified(day),
            _ => Ok(()),
        }
    }
}

/// The start of the UTC day.
pub fn day_of(time: SystemTime) -> SystemTime {
    let seconds = crate::time::unix_seconds(time);
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds - seconds % DAY)
}

/// Whether a stored hash belongs to a banned account.
pub fn is_banned(stored: &str) -> bool {
    stored.starts_with(BAN)
}

#[cfg(test)]
mod tests;
