//! Compares the restored files with the snapshot.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, lchown};

use anyhow::{Context as _, ensure};
use chatmail_core::Settings;
use nix::unistd::User;

use super::plan::Plan;
use crate::backup::restic::{Kind, Node, Restic, Snapshot};

/// Bits of a mode that are permissions.
const PERMISSIONS: u32 = 0o777;

/// Maximum number of differences that are reported.
const REPORTED: usize = 5;

/// Compares the type, size and mode of every file, and the owner of those in the mailboxes.
pub(super) fn compare(
    restic: &Restic<'_>,
    snapshot: &Snapshot,
    settings: &Settings,
    plan: &Plan,
) -> anyhow::Result<()> {
    let mailboxes = &settings.mailboxes.directory;
    let owner = plan.entry(mailboxes).context("the mailboxes are not restored")?;
    let owner =
        User::from_name(&owner.owner)?.with_context(|| format!("this host has no user {}", owner.owner))?;
    let (owner, group) = (owner.uid.as_raw(), owner.gid.as_raw());
    let (mut differences, mut count) = (Vec::new(), 0_usize);
    restic.list(snapshot, |node| {
        if plan.entry(&node.path).is_some() {
            let owner = node.path.starts_with(mailboxes).then_some(owner);
            // Only the owner of the mailboxes can use what lies in them.
            if owner.is_some() && difference(&node, owner) != difference(&node, None) {
                lchown(&node.path, owner, Some(group))
                    .with_context(|| format!("cannot change the owner of {}", node.path.display()))?;
            }
            if let Some(difference) = difference(&node, owner) {
                count += 1;
                if differences.len() < REPORTED {
                    differences.push(format!("{}: {difference}", node.path.display()));
                }
            }
        }
        Ok(())
    })?;
    ensure!(
        count == 0,
        "{count} file(s) differ from the snapshot:\n{}",
        differences.join("\n")
    );
    Ok(())
}

/// How a file differs from the snapshot, if it does.
fn difference(node: &Node, owner: Option<u32>) -> Option<String> {
    let there = match fs::symlink_metadata(&node.path) {
        Ok(there) => there,
        Err(error) => return Some(error.to_string()),
    };
    let kind = there.file_type();
    let same = match node.kind {
        Kind::File => kind.is_file(),
        Kind::Dir => kind.is_dir(),
        Kind::Symlink => kind.is_symlink(),
        Kind::Other => true,
    };
    if !same {
        return Some("of another type".to_owned());
    }
    if node.kind == Kind::File && there.len() != node.size {
        return Some(format!("{} bytes instead of {}", there.len(), node.size));
    }
    let (is, was) = (there.mode() & PERMISSIONS, node.mode & PERMISSIONS);
    if node.kind != Kind::Symlink && is != was {
        return Some(format!("mode {is:04o} instead of {was:04o}"));
    }
    match owner {
        Some(owner) if owner != there.uid() => Some(format!("owner {} instead of {owner}", there.uid())),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_difference_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        fs::write(&path, "four").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let uid = fs::metadata(&path).unwrap().uid();
        let node = |kind: &str, size: u64, mode: u32| {
            let json = serde_json::json!({ "path": path, "type": kind, "size": size, "mode": mode });
            serde_json::from_value(json).unwrap()
        };
        let found = |node: Node, owner| difference(&node, owner).unwrap_or_default();
        assert_eq!(found(node("file", 4, 0o640), Some(uid)), "");
        assert_eq!(found(node("file", 5, 0o640), None), "4 bytes instead of 5");
        assert_eq!(found(node("file", 4, 0o600), None), "mode 0640 instead of 0600");
        assert_eq!(found(node("dir", 0, 0o640), None), "of another type");
        let other = uid + 1;
        assert_eq!(
            found(node("file", 4, 0o640), Some(other)),
            format!("owner {uid} instead of {other}")
        );
        fs::remove_file(&path).unwrap();
        assert!(!found(node("file", 4, 0o640), None).is_empty());
    }
}
