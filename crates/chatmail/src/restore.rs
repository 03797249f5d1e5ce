//! `chatmail restore`: the state of a relay from a snapshot, on a host without accounts.

mod plan;
mod verify;

use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use chatmail_core::Settings;
use chatmail_core::account::MailStore;

use self::plan::Plan;
use crate::Answer;
use crate::account::size;
use crate::backup::restic::{Restic, Snapshot};
use crate::unfinished::{self, Work};
use crate::{program, progress, services};

/// Restore the relay from its backup. Refuses a host that has accounts.
///
/// Stops the services, brings back accounts, mail, keys and secrets with their owners and modes, compares all files with
/// the snapshot, and starts the services. Files get the numeric IDs that their owners have on this host.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// ID of the snapshot, as `chatmail backup list` shows it. Without it, the newest snapshot of this relay.
    snapshot: Option<String>,
    /// Say what would be restored, and change nothing.
    #[arg(long)]
    dry_run: bool,
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    let restic = Restic::of(settings)?;
    let folder = Path::new(unfinished::FOLDER);
    let work = Work::begin(folder, unfinished::RESTORE)?;
    if work.is_complete() && !cli.dry_run {
        work.start()?;
        return Ok(Answer::folded(ALREADY));
    }
    refuse_accounts(settings, &folder.join(unfinished::RESTORE))?;
    let snapshot = choose(restic.snapshots()?, cli.snapshot.as_deref(), settings)?;
    progress::step(format_args!(
        "Reading the list of files in snapshot {}",
        snapshot.short_id
    ));
    let mut plan = Plan::new(settings);
    restic.list(&snapshot, |node| {
        plan.add(&node);
        Ok(())
    })?;
    plan.check()?;
    let what = contents(&plan, &snapshot);
    if cli.dry_run {
        return Ok(Answer::folded(&planned(&what)));
    }

    progress::step("Stopping the services");
    unfinished::advise(
        "the relay is not restored, and its services are stopped; run `chatmail restore` again",
    )?;
    services::stop()?;
    work.mark()?;
    progress::step(format_args!("Restoring {what}"));
    let done = extract(&restic, &snapshot, &plan).and_then(|()| {
        progress::step("Comparing all files with the snapshot");
        verify::compare(&restic, &snapshot, settings, &plan)
    });
    if let Err(error) = done {
        return Err(error.context(
            "the relay is only partly restored, and its services are stopped; repair the cause and run `chatmail restore` again",
        ));
    }
    work.complete()?;
    work.start()?;
    Ok(Answer::folded(&restored(&what)))
}

fn contents(plan: &Plan, snapshot: &Snapshot) -> String {
    format!(
        "{} account(s), {} in {} file(s), from snapshot {} of {}",
        plan.accounts,
        size(plan.bytes()),
        plan.files(),
        snapshot.short_id,
        snapshot.minute()
    )
}

/// An earlier restore was interrupted at its end.
const ALREADY: &str = "Everything was restored before. The services run now.\n";

fn planned(what: &str) -> String {
    format!("Would restore {what}\n")
}

fn restored(what: &str) -> String {
    format!("Restored {what}\nAll files are as in the snapshot, and the services run.\n")
}

/// Restored files would mix with those of existing accounts. What an interrupted restore left is no obstacle.
fn refuse_accounts(settings: &Settings, marker: &Path) -> anyhow::Result<()> {
    if marker.exists() {
        return Ok(());
    }
    let store = MailStore::new(&settings.mailboxes.directory);
    let dir = store.dir().display();
    let accounts = match store.addresses() {
        Ok(addresses) => addresses.len(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => 0,
        Err(error) => return Err(error).with_context(|| format!("cannot list the mail store {dir}")),
    };
    ensure!(
        accounts == 0,
        "this host has {accounts} account(s) in {dir}; a backup can only be restored on a host without accounts; install a new host, or delete these with `chatmail account delete`"
    );
    Ok(())
}

fn choose(
    mut snapshots: Vec<Snapshot>,
    wanted: Option<&str>,
    settings: &Settings,
) -> anyhow::Result<Snapshot> {
    let Some(wanted) = wanted else {
        return snapshots.pop().with_context(|| {
            format!(
                "the repository has no snapshot of {}; `chatmail backup run` makes one",
                settings.domain
            )
        });
    };
    let mut found = snapshots
        .into_iter()
        .filter(|snapshot| !wanted.is_empty() && snapshot.id.starts_with(wanted));
    let snapshot = found
        .next()
        .with_context(|| format!("there is no snapshot {wanted:?}; `chatmail backup list` lists them"))?;
    ensure!(
        found.next().is_none(),
        "several snapshots begin with {wanted:?}; type more of the ID"
    );
    Ok(snapshot)
}

/// Extracts with tar, which finds the owners by name. tar closes each folder that it sets up to others until its end, and
/// leaves it so if it is killed: it must not touch folders outside of the state, and has to set up those inside again.
fn extract(restic: &Restic<'_>, snapshot: &Snapshot, plan: &Plan) -> anyhow::Result<()> {
    let mut dump = restic.archive(snapshot)?;
    let archive = dump.stdout.take().context("restic has no output")?;
    let mut tar = program::attached("tar");
    tar.args([
        "--extract",
        "--directory=/",
        "--preserve-permissions",
        "--same-owner",
    ]);
    if progress::is_watched() {
        // Every 64 MiB, on the terminal itself: standard error is kept for the report of a failure.
        tar.args(["--checkpoint=6554", r"--checkpoint-action=ttyout=%{read}T%*\r"]);
    }
    let output = tar
        .arg("--")
        .args(plan.members())
        .stdin(archive)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .context("cannot run tar")?;
    let dumped = dump.wait().context("cannot run restic")?;
    if !output.status.success() {
        bail!(
            "tar failed with {}: {}",
            output.status,
            first_lines(&String::from_utf8_lossy(&output.stderr))
        );
    }
    ensure!(dumped.success(), "{}", restic.explain(dumped, ""));
    Ok(())
}

/// tar reports every file that it cannot write.
fn first_lines(text: &str) -> String {
    text.lines().take(5).collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};

    use super::*;

    fn settings(dir: &Path) -> Settings {
        let sample = include_str!("../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(sample, "sample".as_ref()).unwrap();
        settings.mailboxes.directory = dir.to_owned();
        settings
    }

    #[test]
    fn accounts_are_refused_unless_a_restore_was_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let store = dir.path().join("mail");
        let settings = settings(&store);
        let marker = dir.path().join("marker");
        refuse_accounts(&settings, &marker).unwrap();
        // Whatever lies there with the name of an account could get mixed with a restored one.
        fs::create_dir_all(store.join("someone01@chat.example.org")).unwrap();
        let error = refuse_accounts(&settings, &marker).unwrap_err().to_string();
        assert!(error.contains("this host has 1 account(s)"), "{error}");
        File::create(&marker).unwrap();
        refuse_accounts(&settings, &marker).unwrap();
    }

    #[test]
    fn the_output_fits_80_columns() {
        use crate::answer::{folded, human};
        let snapshots = crate::backup::restic::parse(
            br#"[{"time":"2026-11-27T03:14:00Z","paths":[],"id":"17b3832400","short_id":"17b38324"}]"#,
        )
        .unwrap();
        let mut plan = Plan::new(&settings(Path::new("/home/vmail/mail/chat.example.org")));
        for account in 0..1204 {
            let node = serde_json::json!({
                "path": format!("/home/vmail/mail/chat.example.org/{account}@chat.example.org/password"),
                "type": "file", "size": 3_400_000, "mode": 384,
            });
            plan.add(&serde_json::from_value(node).unwrap());
        }
        let what = contents(&plan, &snapshots[0]);
        human::check(
            "restore",
            &folded(&(planned(&what) + "\n" + &restored(&what) + "\n" + ALREADY)),
        );
    }

    #[test]
    fn snapshots_are_chosen_by_the_beginning_of_their_id() {
        let snapshots = || {
            crate::backup::restic::parse(
                br#"[{"time":"2026-11-27T00:00:00Z","paths":[],"id":"ab12","short_id":"ab"},
                    {"time":"2026-11-26T00:00:00Z","paths":[],"id":"ab34","short_id":"ab"}]"#,
            )
            .unwrap()
        };
        let settings = settings(Path::new("/nowhere"));
        let chosen = |wanted| choose(snapshots(), wanted, &settings).map(|found| found.id);
        assert_eq!(chosen(None).unwrap(), "ab12");
        assert_eq!(chosen(Some("ab3")).unwrap(), "ab34");
        assert!(chosen(Some("ab")).unwrap_err().to_string().contains("several"));
        for unknown in ["", "b", "latest", "--help"] {
            assert!(chosen(Some(unknown)).is_err(), "{unknown}");
        }
        assert!(choose(Vec::new(), None, &settings).is_err());
    }
}
