//! The filter between Postfix and itself.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Lets only end-to-end encrypted mail pass.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Filters mail that arrives from other servers.
    Incoming(daemon::Cli),
    /// Filters mail that users of this relay submit.
    Outgoing(daemon::Cli),
    /// Accept mail from other relays over HTTPS, behind nginx, and pass it to Postfix.
    Mxdeliv(daemon::Cli),
}

fn main() -> ExitCode {
    match Cli::parse().mode {
        Mode::Incoming(cli) => daemon::main(&cli, filtermail::run_incoming),
        Mode::Outgoing(cli) => daemon::main(&cli, filtermail::run_outgoing),
        Mode::Mxdeliv(cli) => daemon::main(&cli, filtermail::mxdeliv::run),
    }
}
