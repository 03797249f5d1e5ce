//! The command line: one variant for each subcommand, nothing but dispatch.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "scenarios")]
use crate::{bench, harness, render};
use crate::{demo, machine};

/// Mail relays in containers on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
pub(crate) struct Cli {
    /// Only reports what is missing on this computer, and installs nothing
    #[arg(long, global = true)]
    no_install: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts the relays and leaves them running
    Up(machine::cli::Up),
    /// Opens a shell in a relay, or runs a command there
    Shell(machine::cli::Shell),
    /// Shows the journal of a relay
    Logs(machine::cli::Logs),
    /// Ends everything that the lab started
    Down,
    /// Shows two people on two relays sign up, verify each other and write to each other
    Demo,
    #[cfg(feature = "scenarios")]
    Test(harness::cli::Test),
    #[cfg(feature = "scenarios")]
    #[command(subcommand)]
    Bench(bench::Bench),
    /// Renders what the NixOS module makes of the example hosts and the lab's relays
    #[cfg(feature = "scenarios")]
    Render {
        /// Only compare with what is committed
        #[arg(long)]
        check: bool,
    },
}

/// Runs the chosen subcommand; its exit code is the program's.
pub(crate) async fn run(cli: Cli) -> anyhow::Result<ExitCode> {
    match cli.command {
        Command::Up(arguments) => machine::cli::up(&arguments).await,
        Command::Shell(arguments) => machine::cli::shell(&arguments),
        Command::Logs(arguments) => machine::cli::logs(&arguments),
        Command::Down => machine::cli::down().await,
        Command::Demo => demo::demo().await,
        #[cfg(feature = "scenarios")]
        Command::Test(arguments) => harness::cli::test(&arguments).await,
        #[cfg(feature = "scenarios")]
        Command::Bench(which) => bench::bench(&which).await,
        #[cfg(feature = "scenarios")]
        Command::Render { check } => render::run(check).map(|()| ExitCode::SUCCESS),
    }
}
