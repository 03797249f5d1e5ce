//! The operator's command line. One module is one command.
#![allow(clippy::print_stderr, reason = "a program for a person at a terminal")]

mod account;
mod dns;
mod migrate;
mod ports;
mod queue;
mod status;
mod tls;
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
    Status(status::Options),
    Account(account::Options),
    Queue(queue::Options),
    Dns(dns::Options),
    Ports(ports::Options),
    Website(website::Options),
    Migrate(migrate::Options),
}

/// What a command has to say.
pub(crate) struct Answer {
    text: String,
    /// Whether nothing needs attention; decides about the exit code.
    good: bool,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, good: true }
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    match run(&arguments) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            let hint = if lacks_permission(&error) {
                "; run it as root"
            } else {
                ""
            };
            eprintln!("chatmail: {error:#}{hint}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> anyhow::Result<bool> {
    let settings = || chatmail_core::Settings::load(&arguments.settings);
    let answer = match &arguments.command {
        Command::Status(options) => status::run(options, &settings()?)?,
        Command::Account(options) => account::run(options, &settings()?)?,
        Command::Queue(options) => queue::run(options)?,
        Command::Ports(options) => ports::run(options, &settings()?)?,
        Command::Dns(options) => dns::run(options, &settings()?)?,
        Command::Website(options) => website::run(options, &settings()?).map(|()| String::new().into())?,
        // It runs before there is a relay.
        Command::Migrate(options) => migrate::run(options)?,
    };
    print(&answer.text)?;
    Ok(answer.good)
}

fn lacks_permission(error: &anyhow::Error) -> bool {
    error.chain().any(|cause| {
        cause
            .downcast_ref::<std::io::Error>()
            .is_some_and(|error| error.kind() == std::io::ErrorKind::PermissionDenied)
    })
}

/// Unlike `println!` reports what cannot be written, to a full disk for instance. A reader that has seen enough, as
/// `head` has, is no error.
fn print(text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    match out.write_all(text.as_bytes()).and_then(|()| out.flush()) {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        result => result.context("cannot write the output"),
    }
}
