//! Access to the mail store, and to other folders, with the rights of the owner.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use anyhow::{Context as _, bail};
use chatmail_core::account::{Account, MailStore};
use chatmail_core::{Address, Settings};
use nix::unistd::{Gid, Uid, geteuid, setegid, seteuid};

/// Runs `work` as the owner of the mail store, so that new files belong to the services, and a link in a mailbox cannot
/// lead to files that the services cannot access.
pub(crate) fn as_owner<T>(
    settings: &Settings,
    work: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    as_owner_of(&settings.mailboxes.directory, work)
}

/// Runs `work` as the owner of a folder.
pub(crate) fn as_owner_of<T>(folder: &Path, work: impl FnOnce() -> anyhow::Result<T>) -> anyhow::Result<T> {
    let owner = fs::metadata(folder).with_context(|| format!("cannot access {}", folder.display()))?;
    let (user, group) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
    if !geteuid().is_root() || user.is_root() {
        return work();
    }
    setegid(group).with_context(|| format!("cannot act as the group of {}", folder.display()))?;
    seteuid(user).with_context(|| format!("cannot act as the owner of {}", folder.display()))?;
    let result = work();
    seteuid(Uid::from_raw(0)).context("cannot become root again")?;
    setegid(Gid::from_raw(0)).context("cannot become root again")?;
    result
}

/// Finds an existing account and its stored hash.
pub(crate) fn existing(settings: &Settings, address: &Address) -> anyhow::Result<(Account, String)> {
    let account = MailStore::new(&settings.mailboxes.directory).account(address);
    match account
        .password_hash()
        .with_context(|| format!("cannot read the account {address}"))?
    {
        Some(hash) => Ok((account, hash)),
        None => bail!("there is no account {address}; `chatmail account list` shows all of them"),
    }
}
