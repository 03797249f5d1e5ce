//! The operator's command line. One module is one command.
#![allow(clippy::print_stderr, reason = "a program for a person at a terminal")]

mod dns;
mod website;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

/// Runs a chatmail relay.
#[derive(Parser)]
#[command(version)]
struct Arguments {
    /// Settings file that the NixOS module renders.
    #[arg(long, value_name = "PATH", global = true, default_value = chatmail_core::settings::DEFAULT_PATH)]
    settings: PathBuf,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Dns(dns::Options),
    Website(website::Options),
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("chatmail: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<()> {
    let settings = chatmail_core::Settings::load(&arguments.settings)?;
    match &arguments.command {
        Command::Dns(options) => print(&dns::run(options, &settings)?),
        Command::Website(options) => website::run(options, &settings),
    }
}

/// Unlike `println!` reports what cannot be written, to a full disk for instance.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes())
        .and_then(|()| out.flush())
        .context("cannot write the output")
}
