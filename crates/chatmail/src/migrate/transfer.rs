//! `chatmail migrate import` and `export`: the state of a reference relay to this host, and back, with rsync.

mod acme;
mod copy;
mod place;
mod sum;

use std::path::Path;

use anyhow::{Context as _, ensure};
use chatmail_core::Settings;
use chatmail_core::account::MailStore;
use chatmail_core::settings::{AcmeAccount, TlsMode};

use self::acme::Found;
use self::copy::{Copy, owner, text};
use self::place::Place;
use self::sum::Sum;
use crate::unfinished::{self, Work};
use crate::{progress, services};

/// Folder of the DKIM key of the reference relay.
const OLD_KEYS: &str = "/etc/dkimkeys";

/// DKIM key of the reference relay.
const OLD_KEY: &str = "/etc/dkimkeys/opendkim.private";

/// TURN secret of a relay like this one. That of the reference is part of its program and known to everybody.
const TURN_SECRET: &str = "/var/lib/chatmail-turn/secret";

/// Services of the old relay that change mailboxes.
const WRITERS: [&str; 2] = ["postfix.service", "dovecot.service"];

/// Import the mailboxes, passwords and keys of a reference relay with the same domain.
///
/// Run it once while the old relay is in service, which may take long, and again with --final after Postfix and Dovecot
/// were stopped there. The services of this host are stopped until the final import. An interrupted import continues
/// when it is repeated.
#[derive(clap::Args)]
pub(super) struct Import {
    /// The old relay: root@HOST, or an absolute path of a folder that contains its files.
    #[arg(long, value_name = "root@HOST|FOLDER")]
    from: Place,
    /// The old relay has stopped: verify the copy, and start the services of this host.
    #[arg(long)]
    r#final: bool,
    /// Say what would be copied, and change nothing.
    #[arg(long, conflicts_with = "final")]
    dry_run: bool,
}

/// Copy mailboxes, passwords, the DKIM key and the ACME account back to a reference relay with the same domain.
///
/// Stops the services of this host first. The old relay has to be stopped as well. What it has in these places is
/// replaced, except for an ACME account.
#[derive(clap::Args)]
pub(super) struct Export {
    /// The old relay: root@HOST, or an absolute path of a folder.
    #[arg(long, value_name = "root@HOST|FOLDER")]
    to: Place,
    /// Say what would be copied, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

/// Folder of the mailboxes on a reference relay.
fn old_mailboxes(settings: &Settings) -> String {
    format!("/home/vmail/mail/{}", settings.domain)
}

pub(super) fn import(cli: &Import, settings: &Settings) -> anyhow::Result<String> {
    let (old, here) = (&cli.from, &Place::here());
    let store = &settings.mailboxes.directory;
    let folder = Path::new(unfinished::FOLDER);
    let work = Work::begin(folder, unfinished::IMPORT)?;
    let account = settings.tls.acme.as_ref();
    if work.is_complete() && !cli.dry_run {
        serve(work, account)?;
        return Ok(ALREADY.to_owned());
    }
    refuse_accounts(settings, &folder.join(unfinished::IMPORT))?;
    let there = old_mailboxes(settings);
    let key = old.has_file(OLD_KEY)?;
    if key {
        ensure!(
            settings.dkim.selector == "opendkim",
            "the DKIM key of the old relay has the selector \"opendkim\"; set services.chatmail.dkim.selector = \"opendkim\""
        );
    }
    let turn = settings.turn.is_some() && old.has_file(TURN_SECRET)?;
    if cli.r#final {
        old.refuse_running(&WRITERS)?;
    }
    progress::step(format_args!("Counting the files of {old}"));
    let before =
        Sum::of(old, &there).with_context(|| format!("{old} has no mailboxes of {}", settings.domain))?;
    let found = match settings.tls.mode {
        TlsMode::Acme => Some(acme::find(old, account, &settings.domain)?),
        TlsMode::External | TlsMode::SelfSigned => None,
    };
    let mut copies = vec![Copy {
        from: old.path(&format!("{there}/")),
        to: format!("{}/", text(store)?),
        options: vec!["--delete".to_owned(), format!("--chown={}", owner(store)?)],
    }];
    if key {
        let target = &settings.dkim.key_file;
        copies.push(Copy {
            from: old.path(OLD_KEY),
            to: text(target)?.to_owned(),
            options: vec!["--chown=opendkim:opendkim".to_owned(), "--chmod=F600".to_owned()],
        });
    }
    if turn {
        copies.push(Copy {
            from: old.path(TURN_SECRET),
            to: TURN_SECRET.to_owned(),
            options: vec!["--chown=root:root".to_owned(), "--chmod=F600".to_owned()],
        });
    }
    let notes = notes(key, turn, found.as_ref());
    if cli.dry_run {
        let copied = copies
            .iter()
            .map(|copy| copy.run(true))
            .collect::<anyhow::Result<String>>()?;
        return Ok(import_planned(&before, old, &notes, &copied));
    }

    progress::step("Stopping the services of this host");
    unfinished::advise(
        "the import is incomplete, and the services of this host are stopped; run the same command again to continue",
    )?;
    services::stop()?;
    // Until the names lead here, orders would fail, and count against the account.
    if let Some(account) = account {
        services::systemctl(&["stop", &account.unit])?;
    }
    work.mark()?;
    for copy in &copies {
        copy.run(false)?;
    }
    if let (Some(Found::Key(key)), Some(account)) = (&found, account) {
        acme::import(old, key, account).context("cannot import the ACME account")?;
    }
    progress::step("Counting the files of this host");
    let after = Sum::of(here, text(store)?)?;
    if !cli.r#final {
        return Ok(imported_once(&after, &notes));
    }
    progress::step(format_args!("Counting the files of {old} once more"));
    let last = Sum::of(old, &there)?;
    ensure!(after == last, "{}", differs(&after, &last));
    work.complete()?;
    serve(work, account)?;
    Ok(imported(&after, old, &notes))
}

/// Starts the services of this host with the imported state.
fn serve(work: Work, account: Option<&AcmeAccount>) -> anyhow::Result<()> {
    work.start()?;
    if let Some(account) = account {
        // The order fails until the names lead here, and is repeated.
        services::systemctl(&["start", "--no-block", &account.unit])?;
    }
    Ok(())
}

pub(super) fn export(cli: &Export, settings: &Settings) -> anyhow::Result<String> {
    let (old, here) = (&cli.to, &Place::here());
    let store = text(&settings.mailboxes.directory)?;
    let there = old_mailboxes(settings);
    let mut copies = vec![Copy {
        from: format!("{store}/"),
        to: old.path(&format!("{there}/")),
        options: vec!["--delete".to_owned(), "--chown=vmail:vmail".to_owned()],
    }];
    if settings.dkim.selector == "opendkim" && settings.dkim.key_file.exists() {
        copies.push(Copy {
            from: text(&settings.dkim.key_file)?.to_owned(),
            to: old.path(OLD_KEY),
            options: vec!["--chown=opendkim:opendkim".to_owned(), "--chmod=F600".to_owned()],
        });
    }
    old.refuse_running(&WRITERS)?;
    let account = settings.tls.acme.as_ref();
    let account = account
        .map(|account| acme::export(old, account))
        .transpose()?
        .flatten();
    progress::step("Counting the files of this host");
    let before = Sum::of(here, store)?;
    if cli.dry_run {
        let mut copied = String::new();
        // rsync cannot compare with folders that are missing.
        if old.has_folder(&there)? && old.has_folder(OLD_KEYS)? {
            for copy in &copies {
                copied += &copy.run(true)?;
            }
        }
        let account = account.as_ref().map(|account| account.folder.as_str());
        return Ok(export_planned(&before, old, &copied, account));
    }
    progress::step("Stopping the services of this host");
    unfinished::advise(
        "the export is incomplete, and the services of this host are stopped; run the same command again to continue",
    )?;
    services::stop()?;
    old.make_folders(&[there.as_str(), OLD_KEYS])?;
    if let Some(account) = account {
        old.make_private_folder(&account.folder)?;
        copies.push(account.copy);
    }
    for copy in &copies {
        copy.run(false)?;
    }
    progress::step("Comparing the files of both");
    let (ours, theirs) = (Sum::of(here, store)?, Sum::of(old, &there)?);
    ensure!(ours == theirs, "{}", differs(&ours, &theirs));
    Ok(exported(&theirs, old))
}

fn import_planned(there: &Sum, old: &Place, notes: &str, copied: &str) -> String {
    format!("Would import {there}, from {old}\n{notes}{copied}")
}

/// Before the final import.
fn imported_once(here: &Sum, notes: &str) -> String {
    format!(
        "Imported {here}\n{notes}The services of this host stay stopped. Stop Postfix and Dovecot on the old relay, and run this command again with --final. To give up instead, remove {} and reboot: the relay then serves what was imported so far.\n",
        Path::new(unfinished::FOLDER).join(unfinished::IMPORT).display()
    )
}

fn imported(here: &Sum, old: &Place, notes: &str) -> String {
    format!(
        "Imported {here}, from {old}\n{notes}Number and size of the files are those of the old relay, and the services run. Now change the A and AAAA records.\n"
    )
}

/// An earlier import was interrupted at its end.
const ALREADY: &str =
    "Everything was imported before. The services run now. Now change the A and AAAA records.\n";

fn differs(here: &Sum, there: &Sum) -> String {
    format!(
        "this host has {here}, but the old relay {there}; find out what changes the mailboxes there, and run this command again"
    )
}

/// `account` is the folder of an ACME account that would be copied.
fn export_planned(here: &Sum, old: &Place, copied: &str, account: Option<&str>) -> String {
    let account = account.map_or_else(String::new, |folder| format!("{folder}: the ACME account\n"));
    format!("Would export {here}, to {old}\n{copied}{account}")
}

fn exported(there: &Sum, old: &Place) -> String {
    format!(
        "Exported {there}, to {old}\nThe services of this host stay stopped. Start Postfix and Dovecot on the old relay, and change the A and AAAA records.\n"
    )
}

/// What is not imported, and why, and what becomes of the ACME account, if there is one.
fn notes(key: bool, turn: bool, acme: Option<&Found>) -> String {
    let mut text = String::new();
    if !key {
        text += "DKIM key: the old relay has none; publish that of this host, see `chatmail dns`\n";
    }
    if !turn {
        text += "TURN secret: this host keeps its own, because that of the reference relay is the same everywhere\n";
    }
    match acme {
        None => {}
        Some(Found::Key(_)) => {
            text +=
                "ACME account: that of the old relay; a CAA record that names it (accounturi) stays valid\n";
        }
        Some(Found::Nothing(reason)) => {
            text += &format!(
                "ACME account: {reason}; this host registers its own, which costs nothing; if a CAA record names another account (accounturi), remove that part or change it to the new account\n"
            );
        }
    }
    text
}

/// Copies would replace existing accounts.
fn refuse_accounts(settings: &Settings, marker: &Path) -> anyhow::Result<()> {
    let store = MailStore::new(&settings.mailboxes.directory);
    let dir = store.dir().display();
    let accounts = store
        .addresses()
        .with_context(|| format!("cannot list the mail store {dir}"))?
        .len();
    ensure!(
        accounts == 0 || marker.exists(),
        "this host has {accounts} account(s) in {dir} that are not from an unfinished import; an old relay can only be imported on a host without accounts; install a new host, or delete these with `chatmail account delete`"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    #[test]
    fn what_is_left_out_is_said() {
        assert_eq!(notes(true, true, None), "");
        assert_eq!(notes(false, false, None).lines().count(), 2);
        let own = Found::Nothing("the old relay has none with https://ca.test/dir".to_owned());
        assert!(notes(true, true, Some(&own)).contains("this host registers its own"));
        let key = Found::Key("/var/lib/acme/accounts/x/y/privkey".to_owned());
        assert!(notes(true, true, Some(&key)).contains("stays valid"));
    }

    #[test]
    fn the_output_fits_80_columns() {
        use crate::answer::{folded, human};
        let old: Place = "root@old.example.org".parse().unwrap();
        let (all, some) = (
            Sum::new(1204, 88_210, 4_100_000_000),
            Sum::new(1203, 88_207, 4_099_990_000),
        );
        let key = Found::Key("/var/lib/acme/accounts/x/y/privkey".to_owned());
        let none = Found::Nothing("the old relay has none with https://ca.example.org/dir".to_owned());
        let (short, long) = (notes(true, true, Some(&key)), notes(false, false, Some(&none)));
        let stats = "\nNumber of files: 9 (reg: 6, dir: 3)\nNumber of deleted files: 2\n\
                     Number of regular files transferred: 5\nTotal transferred file size: 12345 bytes\n";
        let copied = copy::summary("/home/vmail/mail/chat.example.org/", stats)
            + &copy::summary("/var/lib/chatmail-dkim/opendkim.private", stats);
        let import = [
            import_planned(&all, &old, &long, &copied),
            imported_once(&some, &short),
            imported(&all, &old, &long),
            ALREADY.to_owned(),
            differs(&some, &all) + "\n",
        ];
        human::check("migrate import", &folded(&import.join("\n")));
        let folder = "/var/lib/acme/accounts/acme-v02.api.letsencrypt.org%2fdirectory/x";
        let export = [
            export_planned(&all, &old, &copied, Some(folder)),
            exported(&all, &old),
            differs(&some, &all) + "\n",
        ];
        human::check("migrate export", &folded(&export.join("\n")));
    }

    #[test]
    fn accounts_are_replaced_only_before_the_final_import() {
        let dir = tempfile::tempdir().unwrap();
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(sample, "sample".as_ref()).unwrap();
        settings.mailboxes.directory = dir.path().join("mail");
        let marker = dir.path().join("marker");
        assert!(refuse_accounts(&settings, &marker).is_err());
        fs::create_dir(&settings.mailboxes.directory).unwrap();
        refuse_accounts(&settings, &marker).unwrap();
        fs::create_dir(settings.mailboxes.directory.join("someone01@chat.example.org")).unwrap();
        let error = refuse_accounts(&settings, &marker).unwrap_err().to_string();
        assert!(error.contains("this host has 1 account(s)"), "{error}");
        File::create(&marker).unwrap();
        refuse_accounts(&settings, &marker).unwrap();
    }
}
