//! The command line: one variant per subcommand. It only dispatches.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[cfg(feature = "scenarios")]
use crate::{bench, harness, nixos, render};
use crate::{demo, machine};

/// Mail relays in containers on this machine.
#[derive(Debug, Parser)]
#[command(name = "cargo lab", bin_name = "cargo lab", version)]
pub(crate) struct Cli {
    /// Reports missing prerequisites instead of installing them
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
    /// Stops everything that the lab has started
    Down,
    /// Shows how two users on two relays sign up, verify each other and exchange messages
    Demo,
    #[cfg(feature = "scenarios")]
    Test(harness::cli::Test),
    #[cfg(feature = "scenarios")]
    #[command(subcommand)]
    Bench(bench::Bench),
    #[cfg(feature = "scenarios")]
    Nixos(nixos::Nixos),
    /// Renders the configuration files of the example hosts and the lab's relays with the NixOS module
    #[cfg(feature = "scenarios")]
    Render {
        /// Compares with the committed files instead of writing them
        #[arg(long)]
        check: bool,
    },
}

/// Runs a subcommand and returns the exit status of the program.
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
        Command::Nixos(arguments) => nixos::run(&arguments).await,
        #[cfg(feature = "scenarios")]
        Command::Render { check } => render::run(check).map(|()| ExitCode::SUCCESS),
    }
}
