//! The ACME account. A reference relay keeps it in the format of acmetool (ACME State Storage Specification), and this
//! host in that of lego. The key is the account: a server returns the existing one for a key that it knows (RFC 8555
//! section 7.3.1), so a CAA record that names the account (RFC 8657) stays valid.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use chatmail_core::replace::Replacement;
use chatmail_core::settings::AcmeAccount;
use data_encoding::BASE32_NOPAD;
use sha2::{Digest as _, Sha256};

use super::copy::{Copy, ids, text};
use super::place::Place;

/// Folder of acmetool on the reference relay.
const ACMETOOL: &str = "/var/lib/acme";

/// Whether the old relay has an account for this host.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Path of its key there.
    Key(String),
    /// Why there is none.
    Nothing(String),
}

/// The account that has ordered the certificate of the domain, or else the only account with this host's server.
pub(super) fn find(old: &Place, account: Option<&AcmeAccount>, domain: &str) -> anyhow::Result<Found> {
    let Some(account) = account else {
        return Ok(Found::Nothing(
            "it is unknown where this release of NixOS keeps accounts".to_owned(),
        ));
    };
    let accounts = old_accounts(account);
    let used = old.resolved(&format!("{ACMETOOL}/live/{domain}/account"))?;
    let keys = old.files_below(&accounts, "privkey")?;
    Ok(choose(&account.server, domain, &accounts, used.as_deref(), &keys))
}

/// `used` is the folder of the account that has ordered the certificate, and `keys` those of all accounts with the server.
fn choose(server: &str, domain: &str, accounts: &str, used: Option<&str>, keys: &[String]) -> Found {
    if let Some(used) = used {
        let place = accounts.rsplit('/').next();
        let mut parts = used.rsplit('/');
        let (Some(id), from) = (parts.next(), parts.next()) else {
            return Found::Nothing("the old relay has none".to_owned());
        };
        if from != place {
            return Found::Nothing(format!(
                "the certificate of the old relay is from {}, but this host orders from {server}",
                from.unwrap_or("elsewhere")
            ));
        }
        return Found::Key(format!("{accounts}/{id}/privkey"));
    }
    match keys {
        [] => Found::Nothing(format!("the old relay has none with {server}")),
        [key] => Found::Key(format!("{accounts}/{key}")),
        several => Found::Nothing(format!(
            "the old relay has {} with {server}, and no certificate for {domain} that tells which one counts",
            several.len()
        )),
    }
}

/// Folder of acmetool for the accounts with a server.
fn old_accounts(account: &AcmeAccount) -> String {
    format!("{ACMETOOL}/accounts/{}", acmetool_name(&account.server))
}

/// Name of a server as acmetool writes it: its URL without the scheme `https`, percent-encoded in lower case.
fn acmetool_name(server: &str) -> String {
    let (prefix, rest) = match server.split_once("://") {
        Some(("https", rest)) => ("", rest),
        Some((scheme, rest)) => (scheme, rest),
        None => ("", server),
    };
    let rest = match rest.split_once('/') {
        Some((host, "")) => host,
        _ => rest,
    };
    let mut name = if prefix.is_empty() {
        String::new()
    } else {
        format!("{prefix}:")
    };
    for byte in rest.bytes() {
        if byte.is_ascii_alphanumeric() || b"-_.~".contains(&byte) {
            name.push(char::from(byte));
        } else {
            name.push_str(&format!("%{byte:02x}"));
        }
    }
    name
}

/// Name of a server as lego writes it: host and port.
fn lego_name(server: &str) -> String {
    let rest = server.split_once("://").map_or(server, |(_, rest)| rest);
    let host = rest.split(['/', '?', '#']).next().unwrap_or_default();
    host.replace(':', "_")
}

/// Folder of this host's account.
fn folder(account: &AcmeAccount) -> PathBuf {
    account
        .directory
        .join(lego_name(&account.server))
        .join(&account.email)
}

/// Key of this host's account, below its folder.
fn key_file(folder: &Path, account: &AcmeAccount) -> PathBuf {
    folder.join("keys").join(format!("{}.key", account.email))
}

/// Name beside the account's folder.
fn beside(folder: &Path, suffix: &str) -> PathBuf {
    let mut name = folder.as_os_str().to_owned();
    name.push(suffix);
    name.into()
}

/// Makes the account with this key on the old relay that of this host, which keeps the one that it had in a folder
/// beside it. Other accounts and certificates stay as they are.
pub(super) fn import(old: &Place, key: &str, account: &AcmeAccount) -> anyhow::Result<()> {
    let here = folder(account);
    // The units of NixOS have made it, for the user that runs lego.
    let above = account.directory.parent().context("accounts have no folder")?;
    let (user, group) = ids(above)?;
    let fresh = beside(&here, ".importing");
    let keys = fresh.join("keys");
    for folder in [account.directory.as_path(), parent(&here)?, &fresh, &keys] {
        match fs::DirBuilder::new().mode(0o700).create(folder) {
            Err(error) if error.kind() == ErrorKind::AlreadyExists => continue,
            made => made.with_context(|| format!("cannot create {}", folder.display()))?,
        }
        chown(folder, Some(user), Some(group))
            .with_context(|| format!("cannot change the owner of {}", folder.display()))?;
    }
    let file = key_file(&fresh, account);
    Copy {
        from: old.path(key),
        to: text(&file)?.to_owned(),
        options: vec![
            "--copy-links".to_owned(),
            format!("--chown={user}:{group}"),
            "--chmod=F600".to_owned(),
        ],
    }
    .run(false)?;
    let new = fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    key_id(&file).with_context(|| format!("{key} on {old} is not a usable key"))?;
    if fs::read(key_file(&here, account)).is_ok_and(|current| current == new) {
        return fs::remove_dir_all(&fresh).with_context(|| format!("cannot remove {}", fresh.display()));
    }
    // Without a registration, lego asks the server for the account of the key, and fails if there is none.
    let record = serde_json::json!({ "email": account.email, "registration": null });
    let path = fresh.join("account.json");
    Replacement::with_mode(0o600)
        .write(&path, format!("{record:#}").as_bytes())
        .and_then(|()| chown(&path, Some(user), Some(group)))
        .with_context(|| format!("cannot write {}", path.display()))?;
    let aside = beside(&here, ".before-import");
    let moved = if !here.exists() {
        Ok(())
    } else if aside.exists() {
        fs::remove_dir_all(&here)
    } else {
        fs::rename(&here, &aside)
    };
    moved
        .and_then(|()| fs::rename(&fresh, &here))
        .with_context(|| format!("cannot replace {}", here.display()))
}

/// The copy of this host's account to an old relay that has none with its server; none if there is nothing to copy.
pub(super) fn export(old: &Place, account: &AcmeAccount) -> anyhow::Result<Option<Export>> {
    let file = key_file(&folder(account), account);
    let accounts = old_accounts(account);
    if !file.exists() || !old.files_below(&accounts, "privkey")?.is_empty() {
        return Ok(None);
    }
    let folder = format!("{accounts}/{}", key_id(&file)?);
    let copy = Copy {
        from: text(&file)?.to_owned(),
        to: old.path(&format!("{folder}/privkey")),
        options: vec!["--chown=root:root".to_owned(), "--chmod=F600".to_owned()],
    };
    Ok(Some(Export { folder, copy }))
}

/// A key to copy to the old relay.
pub(super) struct Export {
    /// Folder that has to exist there.
    pub(super) folder: String,
    pub(super) copy: Copy,
}

/// acmetool's name of a key: the hash of its public part.
fn key_id(file: &Path) -> anyhow::Result<String> {
    let output = Command::new("openssl")
        .args(["pkey", "-pubout", "-outform", "DER", "-in"])
        .arg(file)
        .output()
        .context("cannot run openssl")?;
    ensure!(
        output.status.success(),
        "openssl cannot read {}: {}",
        file.display(),
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(BASE32_NOPAD
        .encode(&Sha256::digest(&output.stdout))
        .to_ascii_lowercase())
}

fn parent(path: &Path) -> anyhow::Result<&Path> {
    path.parent()
        .with_context(|| format!("{} has no parent", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVER: &str = "https://acme-v02.api.letsencrypt.org/directory";

    #[test]
    fn servers_have_a_name_in_both_formats() {
        let names = |server| (acmetool_name(server), lego_name(server));
        let pair = |one: &str, other: &str| (one.to_owned(), other.to_owned());
        assert_eq!(
            names(SERVER),
            pair(
                "acme-v02.api.letsencrypt.org%2fdirectory",
                "acme-v02.api.letsencrypt.org"
            )
        );
        assert_eq!(
            names("https://127.0.0.1:14000/dir"),
            pair("127.0.0.1%3a14000%2fdir", "127.0.0.1_14000")
        );
        assert_eq!(names("http://ca.test/"), pair("http:ca.test", "ca.test"));
    }

    #[test]
    fn the_account_of_the_certificate_counts() {
        let accounts = "/var/lib/acme/accounts/ca.test%2fdir";
        let choose = |used: Option<&str>, keys: &[&str]| {
            let keys: Vec<_> = keys.iter().map(|&key| key.to_owned()).collect();
            choose("https://ca.test/dir", "chat.example.org", accounts, used, &keys)
        };
        let key = |id: &str| Found::Key(format!("{accounts}/{id}/privkey"));
        let used = "/mnt/old/var/lib/acme/accounts/ca.test%2fdir/abc";
        assert_eq!(choose(Some(used), &["abc/privkey", "def/privkey"]), key("abc"));
        assert_eq!(choose(None, &["def/privkey"]), key("def"));
        let why = |found| match found {
            Found::Nothing(reason) => reason,
            Found::Key(key) => panic!("{key}"),
        };
        assert!(why(choose(None, &[])).contains("none with https://ca.test/dir"));
        assert!(why(choose(None, &["abc/privkey", "def/privkey"])).contains("has 2 with"));
        let other = "/var/lib/acme/accounts/other.test%2fdir/abc";
        assert!(why(choose(Some(other), &["abc/privkey"])).contains("is from other.test%2fdir"));
    }

    fn account(directory: &Path) -> AcmeAccount {
        AcmeAccount {
            server: SERVER.to_owned(),
            email: "admin@example.org".to_owned(),
            directory: directory.join("accounts/0123"),
            unit: "acme-order-renew-chat.example.org.service".to_owned(),
        }
    }

    /// A key that acmetool 0.2.2 has made, with the name that it has given it.
    const KEY: &str = include_str!("../../../testdata/acmetool.key");
    const KEY_ID: &str = include_str!("../../../testdata/acmetool.id");

    #[test]
    fn accounts_have_the_name_that_acmetool_gives_them() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("privkey");
        fs::write(&file, KEY).unwrap();
        assert_eq!(key_id(&file).unwrap(), KEY_ID.trim());
        fs::write(&file, "damaged").unwrap();
        let error = key_id(&file).unwrap_err().to_string();
        assert!(error.starts_with("openssl cannot read"), "{error}");
    }

    #[test]
    fn the_way_back_needs_a_place_without_accounts() {
        let dir = tempfile::tempdir().unwrap();
        let account = account(dir.path());
        let old: Place = dir.path().join("old").to_str().unwrap().parse().unwrap();
        assert!(export(&old, &account).unwrap().is_none(), "there is no account");
        let file = key_file(&folder(&account), &account);
        fs::create_dir_all(file.parent().unwrap()).unwrap();
        fs::write(&file, KEY).unwrap();
        let back = export(&old, &account).unwrap().unwrap();
        let there = format!(
            "/var/lib/acme/accounts/acme-v02.api.letsencrypt.org%2fdirectory/{}",
            KEY_ID.trim()
        );
        assert_eq!(back.folder, there);
        let there = old.local(&there);
        fs::create_dir_all(&there).unwrap();
        fs::write(Path::new(&there).join("privkey"), KEY).unwrap();
        assert!(
            export(&old, &account).unwrap().is_none(),
            "the old relay has an account"
        );
        let found = find(&old, Some(&account), "chat.example.org").unwrap();
        assert_eq!(found, Found::Key(format!("{}/privkey", back.folder)));
    }
}
