//! Commands that change an account.

use std::process::Command;

use anyhow::{Context as _, bail, ensure};
use chatmail_core::account::{Account, AccountLock, MailStore, is_banned};
use chatmail_core::{Address, Settings};

use super::store::{as_owner, existing};
use crate::program;

/// Exit status of `doveadm kick` if nobody is logged in (`EX_NOHOST`).
const NO_SESSION: i32 = 68;

pub(crate) fn create(settings: &Settings, address: &Address, hash: &str) -> anyhow::Result<()> {
    as_owner(settings, || {
        let account = MailStore::new(&settings.mailboxes.directory).account(address);
        let _lock = lock(&account, address)?;
        let stored = account
            .password_hash()
            .with_context(|| format!("cannot read the account {address}"))?;
        ensure!(
            stored.is_none(),
            "the account {address} already exists; choose another address"
        );
        account
            .create(hash)
            .with_context(|| format!("cannot create {address}"))
    })
}

pub(crate) fn ban(settings: &Settings, address: &Address) -> anyhow::Result<String> {
    as_owner(settings, || {
        let (account, _) = existing(settings, address)?;
        let _lock = lock(&account, address)?;
        account.ban().with_context(|| format!("cannot ban {address}"))
    })?;
    kick(address)?;
    Ok(banned(address))
}

pub(super) fn banned(address: &Address) -> String {
    format!(
        "{address} is banned: it cannot log in, and mail to it bounces. To lift the ban, run `chatmail account unban`.\n"
    )
}

pub(crate) fn unban(settings: &Settings, address: &Address) -> anyhow::Result<String> {
    as_owner(settings, || {
        let (account, stored) = existing(settings, address)?;
        ensure!(
            is_banned(&stored),
            "{address} is not banned; `chatmail account list --banned` shows those that are"
        );
        let _lock = lock(&account, address)?;
        account.unban().with_context(|| format!("cannot unban {address}"))
    })?;
    Ok(unbanned(address))
}

pub(super) fn unbanned(address: &Address) -> String {
    format!("{address} can log in again.\n")
}

pub(crate) fn delete(settings: &Settings, address: &Address) -> anyhow::Result<String> {
    // Banned first, so that no client logs in again before the folder is removed.
    ban(settings, address)?;
    discard(settings, address)?;
    Ok(deleted(address))
}

pub(super) fn deleted(address: &Address) -> String {
    format!("{address} was removed.\n")
}

/// Removes an account without open sessions.
pub(crate) fn discard(settings: &Settings, address: &Address) -> anyhow::Result<()> {
    as_owner(settings, || {
        let (account, _) = existing(settings, address)?;
        let _lock = lock(&account, address)?;
        MailStore::new(&settings.mailboxes.directory)
            .remove(address)
            .with_context(|| format!("cannot remove {address}"))
    })
}

fn lock(account: &Account, address: &Address) -> anyhow::Result<AccountLock> {
    let lock = account
        .try_lock()
        .with_context(|| format!("cannot lock the account {address}"))?;
    lock.with_context(|| format!("another process is changing {address}; try again"))
}

/// Closes the sessions of an account.
fn kick(address: &Address) -> anyhow::Result<()> {
    let result = program::output(Command::new("doveadm").arg("kick").arg(address.as_str()));
    match result {
        Ok(output) if output.status.success() || output.status.code() == Some(NO_SESSION) => Ok(()),
        Ok(output) => bail!(
            "{address} is banned, but its sessions may still be open; repair the cause and run this command again: doveadm kick failed with {}: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        ),
        // Without Dovecot, there are no sessions.
        Err(error)
            if error
                .downcast_ref::<std::io::Error>()
                .is_some_and(|error| error.kind() == std::io::ErrorKind::NotFound) =>
        {
            Ok(())
        }
        Err(error) => Err(error),
    }
}
