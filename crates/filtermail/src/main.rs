//! The filter in front of Postfix's queue.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Accepts only end-to-end encrypted mail.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    mode: Mode,
}

#[derive(Debug, Subcommand)]
enum Mode {
    /// Filter mail that arrives from other servers.
    Incoming(daemon::Cli),
    /// Filter mail that users of this relay submit.
    Outgoing(daemon::Cli),
    /// Accept mail from other relays over HTTPS, behind nginx, and pass it to Postfix.
    Mxdeliv(daemon::Cli),
    /// Deliver mail of this relay to other relays over HTTPS.
    Transport(daemon::Cli),
}

fn main() -> ExitCode {
    match Cli::parse().mode {
        Mode::Incoming(cli) => daemon::main(&cli, filtermail::run_incoming),
        Mode::Outgoing(cli) => daemon::main(&cli, filtermail::run_outgoing),
        Mode::Mxdeliv(cli) => daemon::main(&cli, filtermail::mxdeliv::run),
        Mode::Transport(cli) => daemon::main(&cli, filtermail::transport::run),
    }
}
