//! `cargo lab test`.

use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lab_front::prerequisites::Need;
use mailtest::{Needs, run};
use tokio::process::Command;

use super::Context;
use crate::machine::{Lab, Progress, cache, install, interrupted};
use crate::{render, scenarios};

/// Runs all tests: the checks of `cargo lab render --check`, the tests of the crates, then the scenarios on five
/// relays. With filters, runs only the last two
#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    /// Runs only scenarios whose names contain one of these words (default: all)
    filters: Vec<String>,
    /// Skips the tests of the crates
    #[arg(long)]
    scenarios_only: bool,
    /// Keeps the relays running afterwards
    #[arg(long)]
    keep: bool,
    /// Lists the scenarios without running them
    #[arg(long)]
    list: bool,
}

/// Runs the command; fails if a test or a scenario fails.
pub(crate) async fn test(arguments: &Test) -> anyhow::Result<ExitCode> {
    let all = scenarios::all();
    if arguments.list {
        run::list(&all);
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = run::chosen(&all, &arguments.filters);
    if chosen.is_empty() {
        bail!("no scenario matches; run `cargo lab test --list` to list all scenarios");
    }
    if chosen.iter().any(|scenario| scenario.needs == Needs::Browser) {
        install(Need::Browser)?;
    }
    if !arguments.scenarios_only {
        if arguments.filters.is_empty() {
            render::run(true)?;
        }
        crates().await?;
    }
    let context = Context::new(Lab::up(&Progress::new()).await?, cache()?);
    let played = tokio::select! {
        tally = run::play(&context, &chosen) => Ok(tally),
        signal = interrupted() => Err(signal),
    };
    let machines = context.into_machines();
    if !arguments.keep {
        machines.release().await?;
    }
    if arguments.filters.is_empty() {
        println!("{}", nixos_not_run());
    }
    Ok(played?.report())
}

/// What this command leaves out.
fn nixos_not_run() -> String {
    let how = match render::nixpkgs() {
        Ok(_) => "`cargo lab nixos --all` does it".to_owned(),
        Err(error) => format!("{error:#}"),
    };
    format!("nixos: no NixOS system was booted: {how}")
}

/// Runs the tests of the crates.
async fn crates() -> anyhow::Result<()> {
    let status = Command::from(crate::project::cargo())
        .args(["test", "--profile", "lab", "--workspace", "--quiet"])
        .current_dir(crate::project::root())
        .kill_on_drop(true)
        .status()
        .await
        .context("starting cargo")?;
    if !status.success() {
        bail!("the tests of the crates failed");
    }
    Ok(())
}
