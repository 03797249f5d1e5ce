//! `chatmail test` and `chatmail ping`: run the program `mailtest`, a separate package, so that this one stays small.

use std::ffi::OsString;
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context as _, bail};

const PROGRAM: &str = "mailtest";

#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Domains and options of `mailtest`; `--help` lists them.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "ARGUMENTS")]
    arguments: Vec<OsString>,
}

/// Replaces this process; returns only if that fails.
pub(crate) fn run(command: &str, cli: &Cli) -> anyhow::Result<crate::Answer> {
    let error = Command::new(PROGRAM).arg(command).args(&cli.arguments).exec();
    if error.kind() == ErrorKind::NotFound {
        bail!(
            "the program {PROGRAM} is not installed; add the package {PROGRAM} of the flake to \
             environment.systemPackages, or run it on any computer: nix run FLAKE#{PROGRAM} -- {command} DOMAIN"
        );
    }
    Err(error).with_context(|| format!("cannot run {PROGRAM}"))
}
