//! What a snapshot contains and where it goes.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chatmail_core::Settings;
use chatmail_core::account::PASSWORD_FILE;
use chatmail_core::settings::StateEntry;
use nix::sys::statvfs::statvfs;

use crate::account::size;
use crate::backup::restic::{Kind, Node};

/// Size of a block on the disk: a smaller file takes this much.
const BLOCK: u64 = 4096;

/// The entries of the state with what a snapshot contains of them.
pub(super) struct Plan {
    entries: Vec<(StateEntry, Sum)>,
    mailboxes: PathBuf,
    pub(super) accounts: usize,
}

#[derive(Debug, Default, Clone, PartialEq, Eq)]
struct Sum {
    files: u64,
    bytes: u64,
    blocks: u64,
    found: bool,
}

impl Plan {
    pub(super) fn new(settings: &Settings) -> Self {
        let restored = settings.state.iter().filter(|entry| entry.restore);
        Self {
            entries: restored.map(|entry| (entry.clone(), Sum::default())).collect(),
            mailboxes: settings.mailboxes.directory.clone(),
            accounts: 0,
        }
    }

    /// The entry to which a path belongs; none if the path is not restored.
    pub(super) fn entry(&self, path: &Path) -> Option<&StateEntry> {
        let found = self
            .entries
            .iter()
            .find(|(entry, _)| path.starts_with(&entry.path));
        found.map(|(entry, _)| entry)
    }

    /// Counts a file or folder of the snapshot.
    pub(super) fn add(&mut self, node: &Node) {
        let password = node.path.file_name().is_some_and(|name| name == PASSWORD_FILE);
        let account = node.path.parent().and_then(Path::parent) == Some(&self.mailboxes);
        self.accounts += usize::from(password && account);
        let found = self
            .entries
            .iter_mut()
            .find(|(entry, _)| node.path.starts_with(&entry.path));
        let Some((_, sum)) = found else { return };
        sum.found = true;
        let size = if node.kind == Kind::File { node.size } else { 0 };
        sum.files += u64::from(node.kind == Kind::File);
        sum.bytes = sum.bytes.saturating_add(size);
        let rounded = size.max(1).checked_next_multiple_of(BLOCK).unwrap_or(u64::MAX);
        sum.blocks = sum.blocks.saturating_add(rounded);
    }

    pub(super) fn files(&self) -> u64 {
        self.entries.iter().map(|(_, sum)| sum.files).sum()
    }

    pub(super) fn bytes(&self) -> u64 {
        self.entries.iter().map(|(_, sum)| sum.bytes).sum()
    }

    /// Checks that the snapshot is one of a relay with these settings, and that there is space for it.
    pub(super) fn check(&self) -> anyhow::Result<()> {
        self.complete()?;
        let mut disks: BTreeMap<u64, (PathBuf, u64)> = BTreeMap::new();
        for (entry, sum) in &self.entries {
            let (place, disk) =
                nearest(&entry.path).with_context(|| format!("cannot examine {}", entry.path.display()))?;
            let needed = &mut disks.entry(disk).or_insert((place, 0)).1;
            *needed = needed.saturating_add(sum.blocks);
        }
        for (place, needed) in disks.into_values() {
            let disk = statvfs(&place).with_context(|| format!("cannot examine {}", place.display()))?;
            let free = disk.blocks_available().saturating_mul(disk.fragment_size());
            ensure!(
                needed <= free,
                "{} has {} of free space, but the snapshot needs {}; nothing was changed",
                place.display(),
                size(free),
                size(needed)
            );
        }
        Ok(())
    }

    fn complete(&self) -> anyhow::Result<()> {
        for (entry, sum) in &self.entries {
            ensure!(
                sum.found || !entry.required,
                "the snapshot does not contain {}: it is from a relay with other settings. Configure this host like that relay, or choose another snapshot",
                entry.path.display()
            );
        }
        Ok(())
    }

    /// What is restored of the snapshot, as its tar archive names it.
    pub(super) fn members(&self) -> impl Iterator<Item = &Path> {
        self.entries
            .iter()
            .filter(|(_, sum)| sum.found)
            .map(|(entry, _)| entry.path.strip_prefix("/").unwrap_or(&entry.path))
    }
}

/// The closest existing folder above a path, and its file system.
fn nearest(path: &Path) -> io::Result<(PathBuf, u64)> {
    for place in path.ancestors() {
        match fs::metadata(place) {
            Ok(there) => return Ok((place.to_owned(), there.dev())),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::ErrorKind::NotFound.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings() -> Settings {
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        Settings::parse(sample, "sample".as_ref()).unwrap()
    }

    fn node(path: &str, kind: &str, size: u64) -> Node {
        let json = serde_json::json!({ "path": path, "type": kind, "size": size, "mode": 420 });
        serde_json::from_value(json).unwrap()
    }

    #[test]
    fn files_count_for_the_state_that_contains_them() {
        let mut plan = Plan::new(&settings());
        let store = "/home/vmail/mail/chat.example.org";
        for (path, kind, size) in [
            ("/home", "dir", 0),
            (store, "dir", 0),
            (&format!("{store}/a@chat.example.org"), "dir", 0),
            (&format!("{store}/a@chat.example.org/password"), "file", 100),
            (&format!("{store}/a@chat.example.org/cur/password"), "file", 5000),
            (&format!("{store}.old/b@chat.example.org/password"), "file", 7),
            ("/var/lib/nixos/uid-map", "file", 9),
            ("/var/lib/postfix/queue/x", "file", 9),
        ] {
            plan.add(&node(path, kind, size));
        }
        assert_eq!((plan.accounts, plan.files(), plan.bytes()), (1, 2, 5100));
        let error = plan.complete().unwrap_err().to_string();
        assert!(error.contains("does not contain /var/lib/chatmail:"), "{error}");
        plan.add(&node("/var/lib/chatmail", "dir", 0));
        plan.complete().unwrap();

        plan.add(&node(&format!("{store}/big"), "file", u64::MAX - 10));
        let error = plan.check().unwrap_err().to_string();
        assert!(error.contains("nothing was changed"), "{error}");
    }

    #[test]
    fn only_the_state_that_is_restored_and_there_is_taken_from_the_archive() {
        let mut plan = Plan::new(&settings());
        let store = "/home/vmail/mail/chat.example.org";
        for path in ["/home", store, "/var/lib/nixos", "/var/lib/chatmail"] {
            plan.add(&node(path, "dir", 0));
        }
        let members: Vec<_> = plan.members().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(members, [store.trim_start_matches('/'), "var/lib/chatmail"]);
    }
}
