//! Copies with rsync.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Stdio;

use anyhow::{Context as _, ensure};

use crate::{program, progress};

/// A call of rsync.
pub(super) struct Copy {
    pub(super) from: String,
    pub(super) to: String,
    pub(super) options: Vec<String>,
}

impl Copy {
    /// Copies, or returns what would be copied.
    pub(super) fn run(&self, dry: bool) -> anyhow::Result<String> {
        let mut command = program::attached("rsync");
        command.args(["--archive", "--hard-links", "--partial", "--rsh=ssh"]);
        command.args(&self.options);
        if dry {
            command.args(["--dry-run", "--stats", "--no-human-readable"]);
        }
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        if !dry {
            progress::step(format_args!("Copying {} to {}", self.from, self.to));
            progress::show(&mut command, &["--info=progress2"]);
        }
        let output = command
            .arg("--")
            .args([&self.from, &self.to])
            .output()
            .context("cannot run rsync")?;
        // 24: files vanished meanwhile, as they do while the old relay runs. The final import verifies the result.
        let fine = output.status.success() || output.status.code() == Some(24);
        ensure!(
            fine,
            "rsync failed with {}; repair the cause and run the same command again to continue: {}",
            output.status,
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(summary(&self.to, &String::from_utf8_lossy(&output.stdout)))
    }
}

/// The lines of rsync's statistics that say what is copied.
pub(super) fn summary(to: &str, stats: &str) -> String {
    let wanted = [
        "Number of deleted files",
        "Number of regular files transferred",
        "Total transferred",
    ];
    let lines = stats
        .lines()
        .filter(|line| wanted.iter().any(|start| line.starts_with(start)));
    lines.fold(format!("{to}\n"), |text, line| format!("{text}  {line}\n"))
}

pub(super) fn text(path: &Path) -> anyhow::Result<&str> {
    path.to_str()
        .with_context(|| format!("{} is not UTF-8", path.display()))
}

/// Numeric user and group of a folder.
pub(super) fn ids(folder: &Path) -> anyhow::Result<(u32, u32)> {
    let there = fs::metadata(folder).with_context(|| format!("cannot access {}", folder.display()))?;
    Ok((there.uid(), there.gid()))
}

/// The same in the words of rsync.
pub(super) fn owner(folder: &Path) -> anyhow::Result<String> {
    ids(folder).map(|(user, group)| format!("{user}:{group}"))
}
