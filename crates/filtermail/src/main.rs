//! The filter between Postfix and itself.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Lets only end-to-end encrypted mail pass.
#[derive(Debug, Parser)]
#[command(version)]
struct Arguments {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Filters mail that arrives from other servers.
    Incoming(daemon::Options),
    /// Filters mail that users of this relay submit.
    Outgoing(daemon::Options),
    /// Takes mail from other relays over HTTPS, behind nginx, and hands it to Postfix.
    Mxdeliv(daemon::Options),
}

fn main() -> ExitCode {
    match Arguments::parse().mode {
        Mode::Incoming(options) => daemon::main(&options, filtermail::run_incoming),
        Mode::Outgoing(options) => daemon::main(&options, filtermail::run_outgoing),
        Mode::Mxdeliv(options) => daemon::main(&options, filtermail::mxdeliv::run),
    }
}
