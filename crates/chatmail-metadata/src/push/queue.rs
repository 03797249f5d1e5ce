//! The queue on disk: one file per notification, in the format of the reference relay, so that an operator can migrate
//! with pending notifications. The name of a file is 32 hexadecimal digits, its content `ADDRESS\nTIME\nTOKEN`.

use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};

use chatmail_core::Address;
use chatmail_core::replace::Replacement;

use crate::tokens::MAX_TOKEN;

/// Suffix of unfinished files.
const UNFINISHED: &str = "tmp";

/// Maximum size of a file, far more than an address, a time and a token need.
const MAX_FILE: u64 = MAX_TOKEN as u64 + 1024;

/// Name of a notification's file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Id(u128);

/// A notification: one device to be notified of new messages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Item {
    /// The account that got a message.
    pub(super) address: Address,
    /// Unix time of the message.
    pub(super) start: u64,
    /// The device's token.
    pub(super) token: String,
}

/// The folder.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    dir: PathBuf,
}

impl Queue {
    /// Creates the folder if it is missing, and removes unfinished files of a killed process, which were not
    /// acknowledged.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        for entry in fs::read_dir(dir)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == UNFINISHED) {
                fs::remove_file(&path)?;
            }
        }
        Ok(Self { dir: dir.to_owned() })
    }

    /// Writes the file of a notification. It survives a crash of the process, and one of the machine once
    /// [`Self::sync`] has returned.
    pub(super) fn store(&self, item: &Item) -> io::Result<Id> {
        let id = Id(rand::random());
        let path = self.path(id);
        let fresh = path.with_extension(UNFINISHED);
        let text = format!("{}\n{}\n{}", item.address, item.start, item.token);
        Replacement::with_mode(0o600)
            .through(fresh)
            .name_synced_later()
            .write(&path, text.as_bytes())?;
        Ok(id)
    }

    /// Makes the names of files durable.
    pub(super) fn sync(&self) -> io::Result<()> {
        File::open(&self.dir)?.sync_all()
    }

    /// Reads a notification; none if its file is gone. A malformed file is removed.
    pub(super) fn read(&self, id: Id) -> io::Result<Option<Item>> {
        let path = self.path(id);
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let mut text = Vec::new();
        file.take(MAX_FILE).read_to_end(&mut text)?;
        let item = parse(&text);
        if item.is_none() {
            tracing::warn!("removing a malformed notification: {}", path.display());
            self.remove(id)?;
        }
        Ok(item)
    }

    /// Removes the file of a notification if it exists.
    pub(super) fn remove(&self, id: Id) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All notifications; other files are skipped.
    pub(super) fn ids(&self) -> io::Result<Vec<Id>> {
        let mut ids = Vec::new();
        for entry in fs::read_dir(&self.dir)? {
            ids.extend(entry?.file_name().to_str().and_then(Id::parse));
        }
        Ok(ids)
    }

    fn path(&self, id: Id) -> PathBuf {
        self.dir.join(format!("{:032x}", id.0))
    }
}

impl Id {
    fn parse(name: &str) -> Option<Self> {
        let digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        if name.len() != 32 || !name.bytes().all(digit) {
            return None;
        }
        u128::from_str_radix(name, 16).ok().map(Self)
    }
}

fn parse(text: &[u8]) -> Option<Item> {
    let text = std::str::from_utf8(text).ok()?;
    let mut lines = text.splitn(3, '\n');
    let item = Item {
        address: Address::parse(lines.next()?).ok()?,
        start: lines.next()?.parse().ok()?,
        token: lines.next()?.to_owned(),
    };
    crate::tokens::is_token(&item.token).then_some(item)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use proptest::prelude::*;

    use super::*;

    fn item() -> Item {
        Item {
            address: Address::parse("abcdefghi@chat.example.org").unwrap(),
            start: 1_700_000_000,
            token: "openpgp:AAAA".to_owned(),
        }
    }

    #[test]
    fn a_notification_is_a_file_until_it_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let dir = dir.path().join("state/pending_notifications");
        let queue = Queue::open(&dir).unwrap();
        let id = queue.store(&item()).unwrap();
        queue.sync().unwrap();
        let file = fs::read_dir(&dir).unwrap().next().unwrap().unwrap();
        assert_eq!(file.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert_eq!(
            fs::read_to_string(file.path()).unwrap(),
            "abcdefghi@chat.example.org\n1700000000\nopenpgp:AAAA"
        );
        let again = Queue::open(&dir).unwrap();
        assert_eq!(again.ids().unwrap(), [id]);
        assert_eq!(again.read(id).unwrap(), Some(item()));
        again.remove(id).unwrap();
        again.remove(id).unwrap();
        assert_eq!(again.read(id).unwrap(), None);
    }

    #[test]
    fn what_is_unfinished_or_unreadable_goes() {
        let dir = tempfile::tempdir().unwrap();
        let name = "0123456789abcdef0123456789abcdef";
        fs::write(dir.path().join(format!("{name}.tmp")), "abc").unwrap();
        fs::write(dir.path().join("README"), "left alone").unwrap();
        fs::write(dir.path().join(name), "abcdefghi@chat.example.org\n17").unwrap();
        let queue = Queue::open(dir.path()).unwrap();
        let ids = queue.ids().unwrap();
        assert_eq!(ids.len(), 1);
        assert_eq!(queue.read(ids[0]).unwrap(), None);
        let left: Vec<_> = fs::read_dir(dir.path())
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        assert_eq!(left, ["README"]);
    }

    proptest! {
        #[test]
        fn any_file_can_be_read(text in prop::collection::vec(any::<u8>(), 0..100)) {
            let _ = parse(&text);
        }
    }
}
