//! Commands that show accounts, but never a password or a hash.

use std::fmt::Write as _;
use std::path::Path;
use std::time::SystemTime;

use anyhow::Context as _;
use chatmail_core::account::{Account, MailStore, is_banned};
use chatmail_core::{Address, Settings};
use serde::Serialize;
use time::OffsetDateTime;

use super::store::existing;

#[derive(Serialize)]
struct Entry {
    address: String,
    /// UTC day.
    last_login: String,
    /// Size that Dovecot counts against the quota; none before the first message.
    bytes: Option<u64>,
    messages: Option<u64>,
    banned: bool,
    refuses_cleartext: bool,
}

pub(crate) fn all(settings: &Settings, only_banned: bool, as_json: bool) -> anyhow::Result<String> {
    let store = MailStore::new(&settings.mailboxes.directory);
    let dir = store.dir().display();
    let mut addresses = store
        .addresses()
        .with_context(|| format!("cannot list the mail store {dir}"))?;
    addresses.sort();
    let mut entries = Vec::new();
    for address in &addresses {
        let account = store.account(address);
        let stored = account
            .password_hash()
            .with_context(|| format!("cannot read the account {address}"))?;
        if let Some(hash) = stored.filter(|hash| !only_banned || is_banned(hash)) {
            entries.push(entry(address, &account, &hash)?);
        }
    }
    if as_json {
        return json(&entries);
    }
    Ok(table(&entries))
}

fn table(entries: &[Entry]) -> String {
    let width = entries.iter().map(|entry| entry.address.len()).max().unwrap_or(0);
    let mut text = String::new();
    for entry in entries {
        let size = entry.bytes.map_or("-".to_owned(), size);
        let banned = if entry.banned { "  banned" } else { "" };
        let _ = writeln!(
            text,
            "{:width$}  {}  {size:>10}{banned}",
            entry.address, entry.last_login
        );
    }
    let _ = writeln!(text, "{} account(s)", entries.len());
    text
}

pub(crate) fn one(settings: &Settings, address: &Address, as_json: bool) -> anyhow::Result<String> {
    let (account, hash) = existing(settings, address)?;
    let entry = entry(address, &account, &hash)?;
    if as_json {
        return json(&entry);
    }
    Ok(card(&entry, account.dir()))
}

fn card(entry: &Entry, folder: &Path) -> String {
    let yes = |known: bool| if known { "yes" } else { "no" };
    let count = |known: Option<u64>| known.map_or("unknown".to_owned(), |number| number.to_string());
    format!(
        "address:            {}\nlast login:         {}\nsize:               {}\nmessages:           {}\n\
         banned:             {}\nrefuses cleartext:  {}\nfolder:             {}\n",
        entry.address,
        entry.last_login,
        entry.bytes.map_or("unknown".to_owned(), size),
        count(entry.messages),
        yes(entry.banned),
        yes(entry.refuses_cleartext),
        folder.display(),
    )
}

fn entry(address: &Address, account: &Account, hash: &str) -> anyhow::Result<Entry> {
    let login = account
        .last_login()
        .with_context(|| format!("cannot read the account {address}"))?;
    let (bytes, messages) = account.quota_use().unzip();
    Ok(Entry {
        address: address.to_string(),
        last_login: OffsetDateTime::from(login.unwrap_or(SystemTime::UNIX_EPOCH))
            .date()
            .to_string(),
        bytes,
        messages,
        banned: is_banned(hash),
        refuses_cleartext: account.enforces_e2ee(),
    })
}

fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

/// Formats a size.
pub(crate) fn size(bytes: u64) -> String {
    match bytes {
        0..1_000_000 => format!("{} kB", bytes.div_ceil(1000)),
        1_000_000..1_000_000_000 => format!("{} MB", bytes / 1_000_000),
        _ => format!("{} GB", bytes / 1_000_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{folded, human};

    fn sample(address: &str, bytes: Option<u64>, banned: bool) -> Entry {
        Entry {
            address: address.to_owned(),
            last_login: "2026-11-25".to_owned(),
            bytes,
            messages: bytes.map(|_| 12),
            banned,
            refuses_cleartext: true,
        }
    }

    #[test]
    fn accounts_fit_80_columns() {
        let long = format!("{}@chat.example.org", "x".repeat(60));
        let entries = [
            sample("wanderer1@chat.example.org", Some(123_456_789), false),
            sample("x02crvlgj@chat.example.org", None, true),
        ];
        let wide = [sample(&long, Some(5_000_000_000), true)];
        let text = table(&entries) + "\n" + &table(&wide) + "\n" + &table(&[]);
        human::check("account list", &folded(&text));
        let folder = Path::new("/home/vmail/mail/chat.example.org/wanderer1@chat.example.org");
        let text: String = entries
            .iter()
            .chain(&wide)
            .map(|entry| card(entry, folder) + "\n")
            .collect();
        human::check("account show", &folded(&text));
    }
}
