//! Installation of the client: an existing program, or the binary from the wheel `deltachat-rpc-server` on PyPI.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::{Context as _, bail};
use tokio::process::Command;

/// The version that scenarios and measurements use.
pub const VERSION: &str = "2.65.0";

/// Environment variable with the path of a program to use instead of the one in the cache.
const VARIABLE: &str = "CHATMAIL_DELTACHAT_RPC_SERVER";

/// Returns the path of the client's program: from the environment variable, or else in the lab's cache. If it is not
/// there, Python downloads it; later runs do not need Python.
///
/// # Errors
///
/// If the environment variable does not name a file, if Python's venv module is missing, or if PyPI is not reachable.
pub async fn install(cache: &Path) -> anyhow::Result<PathBuf> {
    if let Some(program) = std::env::var_os(VARIABLE) {
        return given(PathBuf::from(program));
    }
    let program = cache.join(format!("deltachat-rpc-server-{VERSION}"));
    if program.is_file() {
        return Ok(program);
    }
    fs::create_dir_all(cache).with_context(|| format!("creating {}", cache.display()))?;
    let work = tempfile::Builder::new().prefix("deltachat-").tempdir_in(cache)?;
    let venv = work.path().join("venv");
    let made = Command::new("python3")
        .args(["-m", "venv"])
        .arg(&venv)
        .kill_on_drop(true)
        .output()
        .await;
    match made {
        Ok(output) if output.status.success() => {}
        Ok(_) | Err(_) => bail!("Python's venv module is missing: apt install python3-venv"),
    }
    let package = format!("deltachat-rpc-server=={VERSION}");
    let pip = Command::new(venv.join("bin/pip"))
        .args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--no-deps",
            "--only-binary=:all:",
            &package,
        ])
        .kill_on_drop(true)
        .output()
        .await
        .context("starting pip")?;
    if !pip.status.success() {
        bail!("pip install {package}: {}", last_line(&pip));
    }
    let found = binary_in(&venv).with_context(|| format!("{package} contains no binary"))?;
    // Renaming is atomic, so an interrupted lab never leaves a partial program.
    fs::rename(&found, &program)
        .with_context(|| format!("moving {} to {}", found.display(), program.display()))?;
    Ok(program)
}

fn given(program: PathBuf) -> anyhow::Result<PathBuf> {
    if !program.is_file() {
        bail!(
            "{VARIABLE} is {}, which is no file; set it to the path of deltachat-rpc-server",
            program.display()
        );
    }
    Ok(program)
}

fn last_line(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    stderr
        .lines()
        .rev()
        .find(|line| !line.trim().is_empty())
        .unwrap_or("no reason given")
        .to_owned()
}

/// `lib/python3.*/site-packages/deltachat_rpc_server/deltachat-rpc-server`.
fn binary_in(venv: &Path) -> Option<PathBuf> {
    let versions = fs::read_dir(venv.join("lib")).ok()?;
    let mut candidates = versions.flatten().map(|version| {
        version
            .path()
            .join("site-packages/deltachat_rpc_server/deltachat-rpc-server")
    });
    candidates.find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_is_given_must_be_there() {
        let file = tempfile::NamedTempFile::new().unwrap();
        assert_eq!(given(file.path().to_owned()).unwrap(), file.path());
        let error = given(PathBuf::from("/nowhere")).unwrap_err().to_string();
        assert!(
            error.starts_with("CHATMAIL_DELTACHAT_RPC_SERVER is /nowhere"),
            "{error}"
        );
    }
}
