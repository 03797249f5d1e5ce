//! `chatmail doctor`: finds what breaks a relay.

mod checks;
mod elsewhere;
mod host;
mod inputs;
mod message;
mod network;
mod report;
mod verdict;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use chatmail_core::Settings;

use self::checks::CHECKS;
use self::inputs::Inputs;
use crate::answer;

/// Check everything that breaks a relay in practice, and say what to do. Exits with status 1 if a check fails.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Run only these checks; their names are in the output.
    checks: Vec<String>,
    /// Also connect from another machine, through ssh(1) without prompts: it sees firewalls and routes that this host
    /// does not. Checks of its clock and of UDP ports need bash there.
    #[arg(long, value_name = "HOST")]
    from: Option<String>,
    /// Domains whose mail servers show whether the provider blocks outgoing connections to port 25. One of them has to
    /// answer.
    #[arg(
        long,
        value_name = "DOMAIN",
        default_values = ["nine.testrun.org", "gmail.com"]
    )]
    mx_of: Vec<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

pub(crate) fn run(cli: &Cli, settings: &Settings, file: &Path) -> anyhow::Result<crate::Answer> {
    for name in &cli.checks {
        ensure!(
            CHECKS.iter().any(|check| check.name == name),
            "there is no check {name:?}; there are: {}",
            CHECKS.map(|check| check.name).join(", ")
        );
    }
    let inputs = Arc::new(Inputs::new(settings, file, &cli.mx_of, cli.from.as_deref())?);
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()?;
    let lines = runtime.block_on(checks::run(&inputs, &cli.checks));
    // A check that has timed out may still wait for a program.
    runtime.shutdown_background();
    let good = !lines.iter().any(report::Line::is_failure);
    let text = if cli.json {
        serde_json::to_string_pretty(&report::json(&settings.domain, &lines))? + "\n"
    } else {
        report::text(&lines, answer::wants_colour())
    };
    Ok(crate::Answer::new(text, good))
}

/// Longest time of [`delivery`].
const DELIVERY: Duration = Duration::from_secs(60);

/// Sends a message to the relay itself, and returns the time until it has arrived. Needs no more rights than the owner of
/// the mail store has.
pub(crate) fn delivery(settings: &Settings, file: &Path) -> anyhow::Result<Duration> {
    let inputs = Inputs::new(settings, file, &[], None)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime
        .block_on(async { tokio::time::timeout(DELIVERY, message::once(&inputs)).await })
        .context("timed out")?
}
