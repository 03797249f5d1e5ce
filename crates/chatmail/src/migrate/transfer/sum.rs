//! Number and size of the files in mailboxes.

use std::fmt;
use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use chatmail_core::account::PASSWORD_FILE;

use super::place::Place;
use crate::account::size;

/// Depth of the password file of an account.
const PASSWORD_DEPTH: &str = "2";

/// What lies in a folder with mailboxes.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sum {
    accounts: u64,
    files: u64,
    bytes: u64,
}

impl fmt::Display for Sum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{} account(s), {} in {} file(s)",
            self.accounts,
            size(self.bytes),
            self.files
        )
    }
}

impl Sum {
    /// Counts with find(1), which every host has. Its exit status 1 is allowed, for files that vanish meanwhile, unless
    /// it finds nothing.
    pub(super) fn of(place: &Place, folder: &str) -> anyhow::Result<Self> {
        let folder = place.local(folder);
        let there = place
            .command(&["test", "-d", &folder])
            .status()
            .context("cannot examine the mailboxes")?;
        ensure!(there.success(), "there is no folder {folder}");
        let mut find = place
            .command(&["find", &folder, "-type", "f", "-printf", r"%s %d %f\0"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run find")?;
        let records = BufReader::new(find.stdout.take().context("find has no output")?).split(0);
        let mut sum = Self::default();
        for record in records {
            sum.add(&record.context("cannot read the list of files")?)?;
        }
        find.wait().context("cannot run find")?;
        Ok(sum)
    }

    #[cfg(test)]
    pub(super) fn new(accounts: u64, files: u64, bytes: u64) -> Self {
        Self {
            accounts,
            files,
            bytes,
        }
    }

    fn add(&mut self, record: &[u8]) -> anyhow::Result<()> {
        let text = String::from_utf8_lossy(record);
        let mut words = text.splitn(3, ' ');
        let (size, depth, name) = (words.next(), words.next(), words.next());
        let bytes: u64 = size
            .unwrap_or_default()
            .parse()
            .with_context(|| format!("cannot parse the output of find: {text:?}"))?;
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
        self.accounts += u64::from(depth == Some(PASSWORD_DEPTH) && name == Some(PASSWORD_FILE));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_any_name_are_counted() {
        let dir = tempfile::tempdir().unwrap();
        let account = dir.path().join("someone01@chat.example.org");
        std::fs::create_dir_all(account.join("cur")).unwrap();
        std::fs::write(account.join("password"), "12345").unwrap();
        std::fs::write(account.join("cur/password"), "123").unwrap();
        std::fs::write(account.join("cur/a b\nc"), "1").unwrap();
        let folder = dir.path().to_str().unwrap();
        let sum = Sum::of(&Place::here(), folder).unwrap();
        assert_eq!(sum, Sum::new(1, 3, 9));
        assert_eq!(sum.to_string(), "1 account(s), 1 kB in 3 file(s)");
        assert!(Sum::of(&Place::here(), "/nowhere").is_err());
    }
}
