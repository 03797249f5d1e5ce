//! `cargo lab test`.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use lab_front::prerequisites::Need;
use tokio::process::Command;

use super::run::{Tally, chosen, play};
use super::{Context, Needs};
use crate::machine::{Lab, Progress, cache, install, interrupted};
use crate::render;
use crate::scenarios::SCENARIOS;
use crate::topology::Topology;

/// Runs all tests: what `cargo lab render --check` looks at, the tests of the crates, then the scenarios on five relays.
/// With filters only the last two
#[derive(Debug, clap::Args)]
pub(crate) struct Test {
    /// Plays the scenarios whose name holds one of these words; all without any
    filters: Vec<String>,
    /// Leaves the tests of the crates out
    #[arg(long)]
    scenarios_only: bool,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
    /// Lists the scenarios and does nothing
    #[arg(long)]
    list: bool,
    /// Plays against relays that run elsewhere, described as `cargo lab up --json` does it; leaves out what looks into
    /// machines, and the tests of the crates
    #[arg(long, value_name = "FILE")]
    topology: Option<PathBuf>,
}

/// Runs it; fails when a test or a scenario failed.
pub(crate) async fn test(arguments: &Test) -> anyhow::Result<ExitCode> {
    if arguments.list {
        SCENARIOS
            .iter()
            .for_each(|scenario| println!("{}", scenario.name));
        return Ok(ExitCode::SUCCESS);
    }
    let scenarios = chosen(SCENARIOS, &arguments.filters, arguments.topology.is_none());
    if scenarios.is_empty() {
        bail!("no scenario is called like this; `cargo lab test --list` shows them all");
    }
    if scenarios.iter().any(|scenario| scenario.needs == Needs::Browser) {
        install(Need::Browser)?;
    }
    if !arguments.scenarios_only && arguments.topology.is_none() {
        if arguments.filters.is_empty() {
            render::run(true)?;
        }
        crates().await?;
    }
    let context = match &arguments.topology {
        Some(file) => {
            let text = std::fs::read(file).with_context(|| format!("reading {}", file.display()))?;
            let topology: Topology =
                serde_json::from_slice(&text).with_context(|| file.display().to_string())?;
            Context::new(topology, None, cache()?)
        }
        None => {
            let lab = Lab::up(&Progress::new()).await?;
            Context::new(lab.topology().clone(), Some(lab), cache()?)
        }
    };
    let played = tokio::select! {
        tally = play(&context, &scenarios) => Ok(tally),
        signal = interrupted() => Err(signal),
    };
    if let Some(lab) = context.into_machines().filter(|_| !arguments.keep) {
        lab.release().await?;
    }
    let Tally { passed, failed } = played?;
    println!("{passed} passed, {failed} failed");
    Ok(if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// The tests of the crates.
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
