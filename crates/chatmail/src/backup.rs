//! `chatmail backup`: the repository and its snapshots.

pub(crate) mod restic;

use std::fmt::Write as _;
use std::path::Path;
use std::process::Command as Process;

use anyhow::{Context as _, bail};
use chatmail_core::Settings;

use self::restic::{Restic, Snapshot};
use crate::account::size;
use crate::{program, progress, unfinished};

/// Unit of the backup, which restic's module defines.
pub(crate) const UNIT: &str = "restic-backups-chatmail.service";

/// Number of lines of its journal that the error about a failed backup shows.
const LINES: &str = "--lines=5";

/// Back up the relay now, and list its snapshots.
#[derive(clap::Args)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Create the repository. Needed once, before the first backup.
    Init,
    /// Back up the relay now, and wait until it is done.
    Run,
    /// List the snapshots of this relay, the oldest first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    if matches!(cli.command, Command::Run) {
        unfinished::refuse(Path::new(unfinished::FOLDER))?;
    }
    let restic = Restic::of(settings)?;
    let text = match cli.command {
        Command::Init => {
            restic.init()?;
            created(restic.repository())
        }
        Command::Run => {
            // Its errors say more than those of the unit.
            restic.check()?;
            progress::step(format_args!(
                "Backing up; `journalctl -fu {UNIT}` shows what restic prints"
            ));
            unfinished::advise(
                "the backup goes on; `chatmail backup run` waits for it, and `systemctl stop restic-backups-chatmail` ends it",
            )?;
            back_up()?;
            let snapshots = restic.snapshots()?;
            backed_up(snapshots.last().context("restic has made no snapshot")?)
        }
        Command::List { json: true } => {
            return Ok((serde_json::to_string_pretty(&restic.snapshots()?)? + "\n").into());
        }
        Command::List { json: false } => table(&restic.snapshots()?),
    };
    Ok(crate::Answer::folded(&text))
}

fn created(repository: &str) -> String {
    format!("Created the repository {repository}. Keep a copy of its password outside of this host.\n")
}

fn backed_up(snapshot: &Snapshot) -> String {
    format!(
        "Backed up {} in {} file(s): snapshot {}\n",
        size(snapshot.bytes()),
        snapshot.files(),
        snapshot.short_id
    )
}

/// Runs the unit, so that the backup has the same settings as those by the timer, and never runs twice at once.
fn back_up() -> anyhow::Result<()> {
    let status = program::attached("systemctl")
        .args(["start", UNIT])
        .stderr(std::process::Stdio::null())
        .status()
        .context("cannot run systemctl")?;
    if status.success() {
        return Ok(());
    }
    let journal = Process::new("journalctl")
        .args(["--quiet", "--no-pager", "--output=cat", LINES])
        // Without the lines of systemd about the unit.
        .arg(format!("_SYSTEMD_UNIT={UNIT}"))
        .output()
        .context("cannot run journalctl")?;
    bail!(
        "the backup failed; `journalctl -u {UNIT}` shows all of its messages, which end with:\n{}",
        String::from_utf8_lossy(&journal.stdout).trim_end()
    );
}

fn table(snapshots: &[Snapshot]) -> String {
    let mut text = String::new();
    for snapshot in snapshots {
        let _ = writeln!(
            text,
            "{:8}  {}  {:>8}  {} file(s)",
            snapshot.short_id,
            snapshot.minute(),
            size(snapshot.bytes()),
            snapshot.files()
        );
    }
    let _ = writeln!(text, "{} snapshot(s)", snapshots.len());
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::answer::{folded, human};

    #[test]
    fn snapshots_are_listed_in_a_table() {
        let list = r#"[{"time":"2026-11-26T22:11:18.146974497Z","paths":["/a"],"hostname":"d","id":"17b3832400",
            "short_id":"17b38324","summary":{"total_files_processed":2,"total_bytes_processed":5000000,"x":1}},
            {"time":"2026-11-27T22:11:18Z","paths":["/a"],"id":"27b3832400","short_id":"27b38324"}]"#;
        let snapshots = restic::parse(list.as_bytes()).unwrap();
        assert_eq!(
            table(&snapshots),
            "17b38324  2026-11-26 22:11 UTC      5 MB  2 file(s)\n\
             27b38324  2026-11-27 22:11 UTC      0 kB  0 file(s)\n\
             2 snapshot(s)\n"
        );
        let none = table(&restic::parse(b"[]").unwrap());
        let text = table(&snapshots) + "\n" + &none;
        human::check("backup list", &folded(&text));
        human::check("backup run", &folded(&backed_up(&snapshots[0])));
        let repository = "sftp:backup@storage.example.org:/relays/chat.example.org";
        human::check("backup init", &folded(&created(repository)));
        assert!(restic::parse(b"Fatal: no").is_err());
    }
}
