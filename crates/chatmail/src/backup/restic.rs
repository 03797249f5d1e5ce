//! restic with the relay's repository.

use std::io::{BufRead as _, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};

use anyhow::{Context as _, bail, ensure};
use chatmail_core::Settings;
use chatmail_core::settings::Backup;
use serde::{Deserialize, Serialize};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::program;

/// Tag of the snapshots, which the module sets.
const TAG: &str = "chatmail";

/// Folder of restic's cache; that of the unit, which has the same repository.
const CACHE: &str = "/var/cache/restic-backups-chatmail";

/// Exit status for a missing repository.
const NO_REPOSITORY: i32 = 10;
/// Exit status for a locked repository.
const LOCKED: i32 = 11;
/// Exit status for a wrong password.
const WRONG_PASSWORD: i32 = 12;

/// The relay's repository.
pub(crate) struct Restic<'a> {
    backup: &'a Backup,
    /// Name under which the snapshots of this relay are stored.
    host: &'a str,
}

/// A snapshot. restic prints more about it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) id: String,
    pub(crate) short_id: String,
    pub(crate) time: String,
    pub(crate) paths: Vec<PathBuf>,
    #[serde(default)]
    summary: Option<Summary>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Summary {
    total_files_processed: u64,
    total_bytes_processed: u64,
}

/// A file or folder in a snapshot.
#[derive(Debug, Deserialize)]
pub(crate) struct Node {
    pub(crate) path: PathBuf,
    #[serde(rename = "type")]
    pub(crate) kind: Kind,
    #[serde(default)]
    pub(crate) size: u64,
    /// Permissions in the lowest nine bits.
    pub(crate) mode: u32,
}

#[derive(Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Kind {
    File,
    Dir,
    Symlink,
    #[serde(other)]
    Other,
}

impl Snapshot {
    pub(crate) fn files(&self) -> u64 {
        self.summary.as_ref().map_or(0, |sum| sum.total_files_processed)
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.summary.as_ref().map_or(0, |sum| sum.total_bytes_processed)
    }

    /// Its time in UTC, to the minute.
    pub(crate) fn minute(&self) -> String {
        match OffsetDateTime::parse(&self.time, &Rfc3339) {
            Ok(time) => {
                let time = time.to_offset(time::UtcOffset::UTC);
                format!("{} {:02}:{:02} UTC", time.date(), time.hour(), time.minute())
            }
            Err(_) => self.time.clone(),
        }
    }
}

impl<'a> Restic<'a> {
    /// The repository of the settings.
    pub(crate) fn of(settings: &'a Settings) -> anyhow::Result<Self> {
        let backup = settings
            .backup
            .as_ref()
            .context("this relay has no backup; set services.chatmail.backup.repository")?;
        // restic would ask for the password if the file were missing.
        std::fs::metadata(&backup.password_file).with_context(|| {
            format!(
                "cannot read the password of the repository, {}",
                backup.password_file.display()
            )
        })?;
        // The module uses the domain without the brackets of an address literal.
        let host = settings.domain.trim_start_matches('[').trim_end_matches(']');
        Ok(Self { backup, host })
    }

    pub(crate) fn repository(&self) -> &str {
        &self.backup.repository
    }

    /// restic with the repository and the password; with systemd-run if variables are in a file, whose format only
    /// systemd knows.
    fn command(&self) -> Command {
        let Backup {
            repository,
            password_file,
            environment_file,
            restic,
        } = self.backup;
        let mut command = match environment_file {
            None => program::attached(restic),
            Some(file) => {
                let mut command = program::attached("systemd-run");
                command
                    .args([
                        "--quiet",
                        "--pipe",
                        "--wait",
                        "--collect",
                        "--expand-environment=no",
                    ])
                    .arg(format!("--property=EnvironmentFile={}", file.display()))
                    .arg("--")
                    .arg(restic);
                command
            }
        };
        command.arg("--repo").arg(repository);
        command.arg("--password-file").arg(password_file);
        command.args(["--cache-dir", CACHE]).stdin(Stdio::null());
        command
    }

    pub(crate) fn init(&self) -> anyhow::Result<()> {
        let output = self.command().arg("init").output().context("cannot run restic")?;
        ensure!(
            output.status.success(),
            "cannot create the repository {}: {}",
            self.repository(),
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(())
    }

    /// Whether the repository can be opened with the password.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        self.output(&["cat", "config"]).map(drop)
    }

    /// The snapshots of this relay, the oldest first.
    pub(crate) fn snapshots(&self) -> anyhow::Result<Vec<Snapshot>> {
        parse(&self.output(&["snapshots", "--json", "--tag", TAG, "--host", self.host])?)
    }

    /// Calls `see` with every file and folder in a snapshot.
    pub(crate) fn list(
        &self,
        snapshot: &Snapshot,
        mut see: impl FnMut(Node) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut child = self
            .command()
            .args(["ls", "--json", &snapshot.id])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run restic")?;
        let lines = BufReader::new(child.stdout.take().context("restic has no output")?).lines();
        for line in lines {
            let line = line.context("cannot read the list of files in the snapshot")?;
            // The first line describes the snapshot.
            if line.contains(r#""struct_type":"node""#) {
                let node = serde_json::from_str(&line).context("cannot parse the output of restic ls")?;
                see(node)?;
            }
        }
        let status = child.wait().context("cannot run restic")?;
        ensure!(status.success(), "{}", self.explain(status, ""));
        Ok(())
    }

    /// Writes a snapshot as a tar archive, which names the owners of files.
    pub(crate) fn archive(&self, snapshot: &Snapshot) -> anyhow::Result<Child> {
        self.command()
            .args(["dump", "--archive", "tar", &snapshot.id, "/"])
            .stdout(Stdio::piped())
            .spawn()
            .context("cannot run restic")
    }

    fn output(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = self
            .command()
            .args(arguments)
            .output()
            .context("cannot run restic")?;
        if !output.status.success() {
            bail!(
                "{}",
                self.explain(output.status, &String::from_utf8_lossy(&output.stderr))
            );
        }
        Ok(output.stdout)
    }

    /// Says what an exit status of restic means and what to do.
    pub(crate) fn explain(&self, status: ExitStatus, stderr: &str) -> String {
        let repository = self.repository();
        match status.code() {
            Some(NO_REPOSITORY) => format!(
                "there is no repository at {repository}; check services.chatmail.backup.repository, or create it with `chatmail backup init`"
            ),
            Some(LOCKED) => format!(
                "the repository {repository} is locked by another process; wait until it ends, or run `restic unlock` if it does not exist any more"
            ),
            Some(WRONG_PASSWORD) => format!(
                "the password in {} is not that of the repository {repository}",
                self.backup.password_file.display()
            ),
            _ => format!("restic failed with {status}: {}", stderr.trim_end()),
        }
    }
}

/// Parses the output of `restic snapshots --json`.
pub(crate) fn parse(json: &[u8]) -> anyhow::Result<Vec<Snapshot>> {
    let mut snapshots: Vec<Snapshot> =
        serde_json::from_slice(json).context("cannot parse the output of restic snapshots")?;
    snapshots.sort_by(|one, other| one.time.cmp(&other.time));
    Ok(snapshots)
}
