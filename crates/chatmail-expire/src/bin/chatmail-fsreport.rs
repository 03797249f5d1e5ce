//! Report on the storage of mailboxes and on the use of accounts.
#![allow(clippy::print_stdout, reason = "the report is the program's output")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::SystemTime;

use anyhow::Context as _;
use chatmail_core::SettingsFile;
use chatmail_core::maildir::Part;
use chatmail_expire::output::{self, Log, unix_seconds, write_atomic};
use chatmail_expire::plan::DAY;
use chatmail_expire::render;
use chatmail_expire::report::{self, Report, Scope};
use chatmail_expire::store::Store;
use clap::Parser;
use clap::builder::PossibleValue;

/// Report on the storage of all mailboxes and messages, and on the use of accounts.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    settings: SettingsFile,
    /// Assume that it is DAYS days earlier.
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    days: u32,
    /// In the sums by size, only include accounts whose last login is at least DAYS days ago.
    #[arg(long, value_name = "DAYS", default_value_t = 0)]
    min_login_age: u32,
    /// In the sums by size, only include messages in this Maildir subfolder.
    #[arg(long)]
    mdir: Option<Subfolder>,
    /// Maximum number of mailboxes to process.
    #[arg(long, value_name = "N")]
    maxnum: Option<usize>,
    /// Write Prometheus metrics to PATH instead of printing a report; to `fsreport.prom` in PATH if it is a folder.
    #[arg(long, value_name = "PATH")]
    textfile: Option<PathBuf>,
    /// Write the numbers of accounts (accounts, ci_accounts, nonci_accounts) to FILE instead of printing a report.
    /// Messages are not read unless another output needs them.
    #[arg(long, value_name = "FILE", num_args = 0..=1, default_missing_value = "/var/www/html/metrics")]
    legacy_metrics: Option<PathBuf>,
    /// Print the report as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Clone)]
struct Subfolder(Part);

impl clap::ValueEnum for Subfolder {
    fn value_variants<'a>() -> &'a [Self] {
        &[Self(Part::Cur), Self(Part::New), Self(Part::Tmp)]
    }

    fn to_possible_value(&self) -> Option<PossibleValue> {
        Some(PossibleValue::new(render::part_name(self.0)))
    }
}

fn main() -> ExitCode {
    output::exit(run(&Cli::parse()))
}

fn run(cli: &Cli) -> anyhow::Result<ExitCode> {
    let settings = cli.settings.load()?;
    let scope = Scope {
        now: unix_seconds(SystemTime::now()) - i64::from(cli.days) * DAY,
        min_login_age: cli.min_login_age,
        part: cli.mdir.as_ref().map(|&Subfolder(part)| part),
    };
    let log = Log::new(false);

    let to_files = cli.textfile.is_some() || cli.legacy_metrics.is_some();
    let only_accounts = to_files && cli.textfile.is_none() && !cli.json;
    let mut report = Report::default();
    match Store::open(&settings.mailboxes.directory).context("cannot open the mail store")? {
        Some(store) => {
            let parts = store.visit(cli.maxnum, Report::default, |report, name| {
                if only_accounts {
                    report::count_account(&mut report.accounts, &store, name, &log);
                } else {
                    report::add_mailbox(report, &store, name, &scope, &log);
                }
            })?;
            parts.into_iter().for_each(|part| report += part);
        }
        None => log.line(format_args!(
            "no mailboxes found at: {}",
            settings.mailboxes.directory.display()
        )),
    }

    if let Some(mut path) = cli.textfile.clone() {
        if path.is_dir() {
            path.push("fsreport.prom");
        }
        write_atomic(&path, &render::prometheus(&report))?;
    }
    if let Some(path) = &cli.legacy_metrics {
        write_atomic(path, &render::account_metrics(report.accounts))?;
    }
    if cli.json {
        print!("{}", render::json(&report, &scope)?);
    } else if !to_files {
        print!("{}", render::text(&report, &scope));
    }
    Ok(log.exit_code())
}
