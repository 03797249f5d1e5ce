//! Programs that are no part of the workspace and that the lab builds once: their dependencies would weigh more than
//! all of ours.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// How they are built: soon, for they are not measured.
const PROFILE: [(&str, &str); 4] = [
    ("CARGO_PROFILE_RELEASE_DEBUG", "0"),
    ("CARGO_PROFILE_RELEASE_LTO", "off"),
    ("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1"),
    ("CARGO_PROFILE_RELEASE_STRIP", "symbols"),
];

/// Folder with a program in `bin`, below the cache, which `cargo install SOURCE…` makes when it is not there yet. `name`
/// has to change with what is built.
///
/// # Errors
///
/// When it does not build, or cannot be fetched.
pub(crate) async fn ensure(cache: &Path, name: &str, source: &[&str]) -> anyhow::Result<PathBuf> {
    let folder = cache.join(name);
    if folder.is_dir() {
        return Ok(folder);
    }
    let work = tempfile::Builder::new().prefix("build-").tempdir_in(cache)?;
    let made = work.path().join("root");
    let status = Command::from(crate::project::cargo())
        .args(["install", "--quiet", "--locked", "--no-track", "--root"])
        .arg(&made)
        .arg("--target-dir")
        .arg(work.path().join("target"))
        .args(source)
        .envs(PROFILE)
        .stdin(Stdio::null())
        // Its standard output would end up in what `up --json` prints.
        .stdout(Stdio::null())
        .kill_on_drop(true)
        .status()
        .await
        .context("cannot run cargo; it is installed with Rust")?;
    if !status.success() {
        bail!("{name} does not build: {status}");
    }
    // Renamed into place, so that a lab that is interrupted here never leaves half a program.
    fs::rename(&made, &folder)
        .with_context(|| format!("moving {} to {}", made.display(), folder.display()))?;
    Ok(folder)
}
