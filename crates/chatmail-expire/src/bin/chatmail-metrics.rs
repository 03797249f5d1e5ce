//! Writes the account counts that the web site serves.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_expire::output::{self, Log, write_atomic};
use chatmail_expire::render;
use chatmail_expire::report::{self, Accounts};
use chatmail_expire::store::Store;
use clap::Parser;

/// Write how many accounts the relay has, in Prometheus' text format.
#[derive(Parser)]
#[command(version)]
struct Args {
    /// Settings file of the relay.
    #[arg(long, value_name = "PATH", default_value = "/etc/chatmail/settings.json")]
    settings: PathBuf,
    /// File to write; readers see the old counts or the new ones, never a part.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

fn main() -> ExitCode {
    output::exit(run(&Args::parse()))
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let settings = Settings::load(&args.settings)?;
    let log = Log::new(false);
    let mut accounts = Accounts::default();
    if let Some(store) = Store::open(&settings.mailboxes_dir).context("cannot open the mail store")? {
        let parts = store.visit(None, Accounts::default, |accounts, name| {
            report::count_account(accounts, &store, name, &log);
        })?;
        parts.into_iter().for_each(|part| accounts += part);
    }
    write_atomic(&args.output, &render::account_metrics(accounts))?;
    Ok(log.exit_code())
}
