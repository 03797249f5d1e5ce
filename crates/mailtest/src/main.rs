//! `mailtest`: runs the scenarios against relays that run elsewhere.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a person at a terminal"
)]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, bail};
use clap::Parser as _;
use mailtest::topology::Topology;
use mailtest::{Context, run, scenarios};

/// Runs mail scenarios against chatmail relays.
#[derive(Debug, clap::Parser)]
#[command(version)]
struct Arguments {
    /// Runs only scenarios whose names contain one of these words (default: all)
    filters: Vec<String>,
    /// JSON file that describes the relays, in the format of `cargo lab up --json`
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    topology: Option<PathBuf>,
    /// Lists the scenarios without running them
    #[arg(long)]
    list: bool,
}

#[tokio::main]
async fn main() -> ExitCode {
    match test(Arguments::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mailtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn test(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let all = scenarios::all();
    let Some(file) = arguments.topology.filter(|_| !arguments.list) else {
        run::list::<Context>(&all);
        return Ok(ExitCode::SUCCESS);
    };
    let chosen = run::chosen(&all, &arguments.filters);
    if chosen.is_empty() {
        bail!("no scenario matches; run `mailtest --list` to list all scenarios");
    }
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let topology: Topology = serde_json::from_slice(&text)
        .with_context(|| format!("{} does not describe relays", file.display()))?;
    let context = Context::new(topology, cache()?);
    let tally = tokio::select! {
        tally = run::play(&context, &chosen) => tally,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    Ok(tally.report())
}

/// Directory for the Delta Chat program: `mailtest` in the user's cache directory.
fn cache() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let base =
        base.context("no cache directory for Delta Chat: set HOME or XDG_CACHE_HOME to an absolute path")?;
    Ok(base.join("mailtest"))
}
