//! `mailtest`: runs the scenarios against relays that run elsewhere.
#![allow(
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a program for a person at a terminal"
)]

use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::Parser as _;
use mailtest::ping::{Pair, Times};
use mailtest::topology::Topology;
use mailtest::{Context, live, run, scenarios};
use tokio::time::{MissedTickBehavior, interval};

/// Tests chatmail relays with real clients. Exits with status 1 if a test fails or a message is lost.
#[derive(Debug, clap::Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    /// Runs only scenarios whose names contain one of these words (default: all)
    filters: Vec<String>,
    /// JSON file that describes the relays, in the format of `cargo lab up --json`
    #[arg(long, value_name = "FILE", required_unless_present = "list")]
    topology: Option<PathBuf>,
    /// Lists the scenarios without running them
    #[arg(long)]
    list: bool,
}

#[derive(Debug, clap::Subcommand)]
enum Command {
    /// Tests a relay on the Internet, alone or together with another one
    Test {
        /// Domain of the relay
        domain: String,
        /// Domain of another relay, to and from which messages are sent (default: the same)
        other: Option<String>,
        /// Runs only tests whose names contain this word; repeatable
        #[arg(long, value_name = "WORD")]
        only: Vec<String>,
        #[command(flatten)]
        common: Common,
    },
    /// Measures the delivery time of messages from one relay to another, until Ctrl-C
    Ping {
        /// Domain of the sender's relay
        from: String,
        /// Domain of the recipient's relay (default: the same)
        to: Option<String>,
        /// Stops after this number of messages
        #[arg(long, value_name = "NUMBER")]
        count: Option<u64>,
        /// Seconds between two messages; relays accept one per second
        #[arg(long, value_name = "SECONDS", default_value_t = 1.1)]
        interval: f64,
        #[command(flatten)]
        common: Common,
    },
}

#[derive(Debug, clap::Args)]
struct Common {
    /// File with the certificates of the authorities to trust, in PEM format (default: those of this computer)
    #[arg(long, value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// Token of an invitation, for a relay that asks for one; repeat it for the second relay, or use `-` for none. Each test
    /// creates accounts, so allow 30 for each relay
    #[arg(long, value_name = "TOKEN", allow_hyphen_values = true)]
    invitation: Vec<String>,
    /// Account to use instead of signing up, for a relay that is closed; repeatable, also for two relays. Tests send and
    /// leave messages, so use accounts of nobody. Two accounts on each relay make all tests possible
    #[arg(long, value_name = "ADDRESS")]
    account: Vec<String>,
    /// File with the passwords of these accounts, one per line in their order; `-` is standard input (default: asks at
    /// the terminal)
    #[arg(long, value_name = "FILE", requires = "account")]
    password_file: Option<PathBuf>,
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

/// Maximum size of a file with passwords.
const MAX_PASSWORDS: u64 = 64 * 1024;

/// The relays, with the accounts that are given.
async fn relays(domains: &[String], common: &Common) -> anyhow::Result<Topology> {
    let accounts = match common.account.as_slice() {
        [] => Vec::new(),
        addresses => live::logins(addresses, &passwords(addresses, common.password_file.as_deref())?)?,
    };
    let topology = live::topology(domains, &common.invitation, common.ca_file.clone(), accounts).await?;
    live::check_accounts(&topology).await?;
    Ok(topology)
}

fn passwords(addresses: &[String], file: Option<&Path>) -> anyhow::Result<String> {
    let mut text = String::new();
    match file {
        Some(file) if file.as_os_str() == "-" => {
            let mut input = std::io::stdin().lock().take(MAX_PASSWORDS);
            input
                .read_to_string(&mut text)
                .context("cannot read the passwords from standard input")?;
        }
        Some(file) => {
            let opened = std::fs::File::open(file);
            opened
                .and_then(|opened| opened.take(MAX_PASSWORDS).read_to_string(&mut text))
                .with_context(|| format!("cannot read the passwords in {}", file.display()))?;
        }
        None => {
            for address in addresses {
                let password = rpassword::prompt_password(format!("Password of {address}: "))
                    .context("cannot ask for a password without a terminal; use --password-file")?;
                text.push_str(&password);
                text.push('\n');
            }
        }
    }
    Ok(text)
}

#[tokio::main]
async fn main() -> ExitCode {
    let mut arguments = Arguments::parse();
    let done = match arguments.command.take() {
        None => play(arguments).await,
        Some(Command::Test {
            domain,
            other,
            only,
            common,
        }) => test(domain, other, &only, common).await,
        Some(Command::Ping {
            from,
            to,
            count,
            interval,
            common,
        }) => ping(from, to, count, interval, common).await,
    };
    match done {
        Ok(code) => code,
        Err(error) => {
            eprintln!("mailtest: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn test(
    domain: String,
    other: Option<String>,
    only: &[String],
    common: Common,
) -> anyhow::Result<ExitCode> {
    let all = scenarios::live::all();
    let chosen = run::chosen(&all, only);
    if chosen.is_empty() {
        let names: Vec<_> = all.iter().map(|scenario| scenario.name).collect();
        bail!("no test matches; there are: {}", names.join(", "));
    }
    let domains: Vec<_> = [Some(domain), other].into_iter().flatten().collect();
    let context = Context::new(relays(&domains, &common).await?, cache()?);
    let mut outcomes = Vec::new();
    let mut skipped = Vec::new();
    for scenario in chosen {
        if let Some(reason) = scenarios::live::skipped(scenario.name, &context.topology) {
            if !common.json {
                println!("skipped            {}: {reason}", scenario.name);
            }
            skipped.push(serde_json::json!({ "scenario": scenario.name, "reason": reason }));
            continue;
        }
        let outcome = tokio::select! {
            outcome = run::attempt(&context, scenario) => outcome,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        };
        if !common.json {
            println!("{}", outcome.text());
        }
        outcomes.push(outcome);
    }
    let failed = outcomes
        .iter()
        .filter(|outcome| outcome.failure.is_some())
        .count();
    let tally = run::Tally {
        passed: outcomes.len() - failed,
        failed,
    };
    if !common.json {
        return Ok(tally.report());
    }
    let report =
        serde_json::json!({ "domains": domains, "ok": failed == 0, "tests": outcomes, "skipped": skipped });
    println!("{report:#}");
    Ok(ExitCode::from(u8::from(failed > 0)))
}

async fn ping(
    from: String,
    to: Option<String>,
    count: Option<u64>,
    seconds: f64,
    common: Common,
) -> anyhow::Result<ExitCode> {
    ensure!(
        (0.1..=86400.0).contains(&seconds),
        "--interval {seconds} is not a number of seconds from 0.1 to 86400"
    );
    let domains: Vec<_> = [Some(from), to].into_iter().flatten().collect();
    let topology = relays(&domains, &common).await?;
    let peer = |name| mailtest::client::Peer::of(&topology, name);
    let pair = Pair::sign_up(&peer("a")?, &peer("b")?).await?;
    let mut ticks = interval(Duration::from_secs_f64(seconds));
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut times = Times::default();
    let interrupted = tokio::signal::ctrl_c();
    tokio::pin!(interrupted);
    for number in 1..=count.unwrap_or(u64::MAX) {
        let probe = async {
            ticks.tick().await;
            pair.probe(number).await
        };
        let probe = tokio::select! {
            probe = probe => probe,
            _ = &mut interrupted => break,
        };
        times.add(&probe);
        if !common.json {
            println!("{}", probe.text());
        }
    }
    let summary = times.summary();
    if common.json {
        println!("{}", serde_json::to_string_pretty(&summary)?);
    } else {
        println!("{}", summary.text());
    }
    Ok(ExitCode::from(u8::from(summary.lost > 0 || summary.sent == 0)))
}

async fn play(arguments: Arguments) -> anyhow::Result<ExitCode> {
    let all = scenarios::all();
    let Some(file) = arguments.topology.filter(|_| !arguments.list) else {
        run::list::<Context>(&all);
        return Ok(ExitCode::SUCCESS);
    };
    let chosen = run::chosen(&all, &arguments.filters);
    if chosen.is_empty() {
        bail!("no scenario matches; run `mailtest --list` to list all scenarios");
    }
    let text = std::fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?;
    let topology: Topology = serde_json::from_slice(&text)
        .with_context(|| format!("{} does not describe relays", file.display()))?;
    let context = Context::new(topology, cache()?);
    let tally = tokio::select! {
        tally = run::play(&context, &chosen) => tally,
        _ = tokio::signal::ctrl_c() => bail!("interrupted"),
    };
    Ok(tally.report())
}

/// Directory for the Delta Chat program: `mailtest` in the user's cache directory.
fn cache() -> anyhow::Result<PathBuf> {
    let absolute = |name: &str| {
        std::env::var_os(name)
            .map(PathBuf::from)
            .filter(|path| path.is_absolute())
    };
    let base = absolute("XDG_CACHE_HOME").or_else(|| absolute("HOME").map(|home| home.join(".cache")));
    let base =
        base.context("no cache directory for Delta Chat: set HOME or XDG_CACHE_HOME to an absolute path")?;
    Ok(base.join("mailtest"))
}
