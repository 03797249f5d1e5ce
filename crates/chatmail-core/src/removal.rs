//! Removal of accounts, by expiry and by the operator.
//!
//! The folder is renamed before it is emptied. From then on, neither Dovecot nor doveauth takes it for an account, and
//! its address is free, even if the removal is interrupted.

use std::ffi::{CStr, CString, OsStr};
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;
use std::time::SystemTime;

use nix::fcntl::renameat;

use crate::account::MailStore;
use crate::address::Address;
use crate::maildir::{Mailbox, Problem};

/// Prefix of the name of a folder that is being removed. Such a name is not an address.
const PREFIX: &[u8] = b".removing-";

/// How often the removal of a folder is tried while a delivery writes to it.
const ATTEMPTS: usize = 3;

/// The outcome of a removal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Removal {
    /// The account is gone.
    Removed,
    /// The account was used again, or something else removed it.
    Spared,
}

impl MailStore {
    /// Removes an account with all of its mail. Needs the lock of the account, and its password made wrong, so that
    /// no login creates it again meanwhile.
    ///
    /// If this is interrupted, the next expiry finishes it.
    pub fn remove(&self, address: &Address) -> Result<(), Problem> {
        let account = self.account(address);
        // To expiry the account is inactive now.
        account
            .set_last_login(SystemTime::UNIX_EPOCH)
            .map_err(|source| Problem::new(account.dir(), source))?;
        let name = CString::new(address.as_str()).map_err(|error| Problem::new(account.dir(), error))?;
        // What an interrupted removal of the same address left would block the renaming.
        self.remove_tree(&aside(&name))?;
        self.rename(&name, &aside(&name))?;
        self.remove_tree(&aside(&name))
    }

    /// Removes the account in the folder `name` if `is_inactive` says so about the second of its last login. A login
    /// at the same moment wins: the last login is read again once no service can reach the folder any more.
    pub fn remove_inactive(
        &self,
        name: &CStr,
        is_inactive: impl Fn(i64) -> bool,
    ) -> Result<Removal, Problem> {
        let inactive = |name: &CStr| {
            let login = self.last_login(name)?.flatten();
            Ok(login.is_some_and(&is_inactive))
        };
        if !inactive(name)? {
            return Ok(Removal::Spared);
        }
        let aside = aside(name);
        match self.rename(name, &aside) {
            Err(problem) if problem.source.kind() == io::ErrorKind::NotFound => return Ok(Removal::Spared),
            renamed => renamed?,
        }
        if !inactive(&aside)? {
            self.rename(&aside, name)?;
            return Ok(Removal::Spared);
        }
        self.remove_tree(&aside)?;
        Ok(Removal::Removed)
    }

    /// Finishes interrupted removals, and takes back those of accounts that are not inactive. `report` gets what fails.
    pub fn finish_removals(
        &self,
        is_inactive: impl Fn(i64) -> bool,
        mut report: impl FnMut(&Problem),
    ) -> Result<(), Problem> {
        let failed = |source| Problem::new(self.dir(), source);
        // Read to the end first: folders are renamed below.
        let mut names = Vec::new();
        for entry in fs::read_dir(self.dir()).map_err(failed)? {
            let found = entry.map_err(failed)?.file_name();
            // No file name holds NUL.
            if let Some(Ok(name)) = found.as_bytes().strip_prefix(PREFIX).map(CString::new) {
                names.push(name);
            }
        }
        for name in names {
            if let Err(problem) = self.finish(&name, &is_inactive) {
                report(&problem);
            }
        }
        Ok(())
    }

    fn finish(&self, name: &CStr, is_inactive: impl Fn(i64) -> bool) -> Result<(), Problem> {
        let aside = aside(name);
        match self.last_login(&aside)? {
            // The removal was interrupted between the renaming and the second look.
            Some(Some(login)) if !is_inactive(login) => self.rename(&aside, name),
            Some(_) => self.remove_tree(&aside),
            // Not a folder.
            None => Ok(()),
        }
    }

    /// The second of the last login of the account in a folder; none without a folder, and inside none without a
    /// password file.
    fn last_login(&self, name: &CStr) -> Result<Option<Option<i64>>, Problem> {
        match Mailbox::open(self.open()?, self.dir(), name)? {
            Some(mailbox) => mailbox.last_login().map(Some),
            None => Ok(None),
        }
    }

    /// Renames a folder; a folder that is not empty is never replaced (rename(2)).
    fn rename(&self, from: &CStr, to: &CStr) -> Result<(), Problem> {
        let store = self.open()?;
        renameat(&store, from, &store, to).map_err(|source| Problem::new(self.path(from), source))
    }

    /// Removes a folder without following symbolic links, which the standard library guarantees.
    fn remove_tree(&self, name: &CStr) -> Result<(), Problem> {
        let path = self.path(name);
        let mut attempt = 1;
        loop {
            match fs::remove_dir_all(&path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < ATTEMPTS => {
                    attempt += 1;
                }
                removed => return removed.map_err(|source| Problem { path, source }),
            }
        }
    }

    fn open(&self) -> Result<File, Problem> {
        File::open(self.dir()).map_err(|source| Problem::new(self.dir(), source))
    }

    fn path(&self, name: &CStr) -> PathBuf {
        self.dir().join(OsStr::from_bytes(name.to_bytes()))
    }
}

fn aside(name: &CStr) -> CString {
    let bytes = [PREFIX, name.to_bytes()].concat();
    // A C string holds no NUL, and neither does the prefix.
    CString::new(bytes).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use std::time::Duration;

    const NAME: &CStr = c"user12345@chat.example.org";
    const NOW: i64 = 1_800_000_000;
    const OLD: i64 = 1_000_000_000;

    fn inactive(login: i64) -> bool {
        login < NOW
    }

    fn store() -> (tempfile::TempDir, MailStore, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let store = MailStore::new(dir.path());
        let folder = dir.path().join(NAME.to_str().unwrap());
        (dir, store, folder)
    }

    fn login(folder: &Path, second: i64) {
        fs::create_dir_all(folder.join("cur")).unwrap();
        File::create(folder.join("password"))
            .unwrap()
            .set_modified(SystemTime::UNIX_EPOCH + Duration::from_secs(second.try_into().unwrap()))
            .unwrap();
    }

    #[test]
    fn a_login_since_the_decision_spares_the_account() {
        let (dir, store, folder) = store();
        login(&folder, NOW);
        assert_eq!(store.remove_inactive(NAME, inactive).unwrap(), Removal::Spared);
        assert!(folder.join("password").exists());
        login(&folder, OLD);
        // The login comes between the first look and the second.
        let looks = std::cell::Cell::new(0);
        let first_only = |_| looks.replace(looks.get() + 1) == 0;
        assert_eq!(store.remove_inactive(NAME, first_only).unwrap(), Removal::Spared);
        assert!(folder.join("password").exists());
        assert_eq!(store.remove_inactive(NAME, inactive).unwrap(), Removal::Removed);
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
        assert_eq!(
            store.remove_inactive(NAME, inactive).unwrap(),
            Removal::Spared,
            "something else removed it"
        );
    }

    #[test]
    fn an_account_made_anew_is_not_replaced_by_its_old_self() {
        let (dir, store, folder) = store();
        login(&folder, NOW);
        let old = dir.path().join(aside(NAME).to_str().unwrap());
        login(&old, NOW);
        let mut problems = 0;
        store.finish_removals(inactive, |_| problems += 1).unwrap();
        assert_eq!(problems, 1, "nobody but the operator can decide");
        assert!(old.join("password").exists());
    }

    #[test]
    fn the_operator_removes_an_account_that_is_in_use_and_what_was_left_of_it() {
        let (dir, store, folder) = store();
        login(&folder, NOW);
        login(&dir.path().join(aside(NAME).to_str().unwrap()), NOW);
        store
            .remove(&Address::parse(NAME.to_str().unwrap()).unwrap())
            .unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }

    #[test]
    fn expiry_finishes_what_the_operator_began() {
        let (dir, store, folder) = store();
        login(&folder, NOW);
        // As far as `remove` comes before it is interrupted.
        let address = Address::parse(NAME.to_str().unwrap()).unwrap();
        store
            .account(&address)
            .set_last_login(SystemTime::UNIX_EPOCH)
            .unwrap();
        store.rename(NAME, &aside(NAME)).unwrap();
        store
            .finish_removals(inactive, |problem| panic!("{problem}"))
            .unwrap();
        assert_eq!(dir.path().read_dir().unwrap().count(), 0);
    }
}
