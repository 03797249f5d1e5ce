//! Builds our services and keeps the copies that the relays run.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::project;

/// A message of `cargo build --message-format=json`; others have no executable.
#[derive(Debug, Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// Builds everything, with the same features of libraries as the lab itself so that none is built twice, and returns
/// the programs of the relays. cargo shows its progress on standard error.
pub(super) fn build() -> anyhow::Result<Vec<PathBuf>> {
    let output = project::cargo()
        .args(["build", "--release", "--locked", "--bins"])
        .arg("--message-format=json-render-diagnostics")
        .current_dir(project::root())
        .stdin(Stdio::null())
        .stderr(Stdio::inherit())
        .output()
        .context("cannot run cargo; it is installed with Rust")?;
    if !output.status.success() {
        bail!("the services do not build");
    }
    let text = String::from_utf8(output.stdout).context("cargo printed no UTF-8")?;
    let mut programs = Vec::new();
    for line in text.lines() {
        let message: Message = serde_json::from_str(line).context("cannot read what cargo printed")?;
        programs.extend(message.executable);
    }
    programs.retain(|program| !program.ends_with("lab"));
    programs.sort();
    Ok(programs)
}

/// Names of programs.
pub(super) fn names(programs: &[PathBuf]) -> Vec<String> {
    programs
        .iter()
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .collect()
}

/// Copies the programs to where the relays see them, so that the next build does not change what runs.
pub(super) fn stage(programs: &[PathBuf], folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder)?;
    for program in programs {
        let name = program.file_name().context("a program has no name")?;
        fs::copy(program, folder.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    Ok(())
}
