//! Daily removal of old messages and unused accounts.
#![allow(clippy::print_stdout, reason = "the summary is the program's output")]

use std::process::ExitCode;
use std::time::{Instant, SystemTime};

use anyhow::Context as _;
use chatmail_core::SettingsFile;
use chatmail_expire::apply::{self, Mode, Tally};
use chatmail_expire::output::{self, Log, unix_seconds};
use chatmail_expire::plan::{DAY, Rules};
use chatmail_expire::store::Store;
use clap::Parser;

/// Remove old messages and inactive accounts according to the relay's settings.
///
/// Without --remove, nothing is changed: the numbers are those of a real run.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    settings: SettingsFile,
    /// Assume that it is N days earlier.
    #[arg(long, value_name = "N", default_value_t = 0)]
    days: u32,
    /// Maximum number of mailboxes to process.
    #[arg(long, value_name = "N")]
    maxnum: Option<usize>,
    /// Print the removed files and mailboxes.
    #[arg(short)]
    verbose: bool,
    /// Remove all expired files and folders.
    #[arg(long)]
    remove: bool,
}

fn main() -> ExitCode {
    output::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let start = Instant::now();
    let settings = cli.settings.load()?;
    let now = unix_seconds(SystemTime::now()) - i64::from(cli.days) * DAY;
    let rules = Rules::new(&settings.mailboxes, now);
    let mode = if cli.remove { Mode::Remove } else { Mode::DryRun };
    let log = Log::new(cli.verbose);

    let mut tally = Tally::default();
    match Store::open(&settings.mailboxes.directory).context("cannot open the mail store")? {
        Some(store) => {
            if mode == Mode::Remove {
                store.finish_removals(&rules, &log)?;
            }
            let parts = store.visit(cli.maxnum, Tally::default, |tally, name| {
                apply::expire(&store, name, &rules, mode, &log, tally);
            })?;
            parts.into_iter().for_each(|part| tally += part);
        }
        None => log.line(format_args!(
            "no mailboxes found at: {}",
            settings.mailboxes.directory.display()
        )),
    }
    println!(
        "Removed {} out of {} mailboxes and {} out of {} files in existing mailboxes in {:.2} seconds",
        tally.mailboxes_removed,
        tally.mailboxes,
        tally.files_removed,
        tally.files,
        start.elapsed().as_secs_f64()
    );
    Ok(log.exit_code())
}
