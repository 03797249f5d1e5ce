//! The lab: mail relays in containers on this machine, scenarios that real clients play against them, benchmarks,
//! and the rendering of the NixOS module. Run as `cargo lab`.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a person at a terminal"
)]

mod bench;
mod built;
mod cli;
mod client;
#[cfg(test)]
mod coverage;
mod demo;
mod machine;
mod project;
mod render;
mod rendered;
mod scenarios;
mod topology;

use std::process::ExitCode;

use clap::Parser as _;

#[tokio::main]
async fn main() -> ExitCode {
    match cli::run(cli::Cli::parse()).await {
        Ok(code) => code,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}
