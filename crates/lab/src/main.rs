//! The lab: mail relays in containers on this machine, scenarios that test them with real clients, benchmarks, and the
//! rendering of the NixOS module. `cargo lab` runs it.
#![allow(clippy::print_stdout, clippy::print_stderr, reason = "an interactive program")]
#![cfg_attr(
    not(feature = "scenarios"),
    allow(
        dead_code,
        unused_imports,
        reason = "only scenarios use some of the functions"
    )
)]

#[cfg(feature = "scenarios")]
mod bench;
mod cargo_install;
mod cli;
mod committed;
#[cfg(all(test, feature = "scenarios"))]
mod coverage;
mod demo;
#[cfg(feature = "scenarios")]
mod harness;
mod machine;
#[cfg(feature = "scenarios")]
mod nixos;
mod project;
#[cfg(feature = "scenarios")]
mod render;
#[cfg(feature = "scenarios")]
mod scenarios;
#[cfg(test)]
mod structure;

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
