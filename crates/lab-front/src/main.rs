//! `cargo lab`: installs what the lab needs, compiles the lab and the relays' services while it installs Debian for the
//! relays, and then replaces itself with the lab. It is small, so that it compiles quickly.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an interactive program")]

mod call;
mod compile;
mod first_run;

use std::fs::File;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;
use lab_front::paths::Paths;
use lab_front::progress::Progress;
use lab_front::{prerequisites, programs, rootfs, tasks};

use self::call::Call;

fn main() -> ExitCode {
    match run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<ExitCode> {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    let words: Vec<&str> = arguments
        .iter()
        .map(|word| word.to_str().unwrap_or("?"))
        .collect();
    let call = Call::of(&words);
    if call.starts_relays {
        prerequisites::check_privileges()?;
    }
    let paths = Paths::from_environment()?;
    let progress = Progress::new();
    prerequisites::ensure(&paths, &progress, &call.needs)?;
    if call.first_run {
        return first_run::measure(&paths);
    }

    let build = compile::Build::of(&call)?;
    let mut all = Vec::new();
    if !(call.any_build && build.program().exists()) {
        all.push(build.task(&paths));
    }
    // No other `cargo lab` installs Debian or starts relays meanwhile.
    let lock = File::create(paths.lock()).context("cannot open the lab's lock")?;
    if call.starts_relays && rootfs::installed(&paths).is_none() {
        lock.lock().context("cannot lock the lab")?;
        all.extend(rootfs::install(&paths, &rootfs::relays())?);
    }
    tasks::run(&progress, all)?;
    drop(lock);
    if call.nix_tools {
        for task in compile::nix_tools(&paths) {
            tasks::run(&progress, vec![task])?;
        }
    }

    let mut path = vec![paths.tools().join("bin")];
    path.extend(std::env::split_paths(
        &std::env::var_os("PATH").unwrap_or_default(),
    ));
    let path = std::env::join_paths(path).context("cannot extend PATH")?;
    let error = Command::new(build.program())
        .args(&arguments)
        .env("PATH", path)
        .env(programs::VARIABLE, build.list())
        .exec();
    Err(error).with_context(|| format!("cannot run {}", build.program().display()))
}
