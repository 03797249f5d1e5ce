//! `cargo lab bench`: measures the relays and their services.

mod backlog;
mod chat;
mod cost;
mod delivery;
mod document;
mod expire;
mod federation;
mod filter;
mod hops;
mod idle;
mod load;
mod logins;
mod metadata;
mod nothing;
mod program;
mod relays;
mod report;
mod scale;
mod setup;
mod small;
pub(crate) mod stats;
mod target;
mod throughput;

use std::process::ExitCode;

use anyhow::bail;
use clap::Parser as _;

use self::target::Target;
use crate::machine::{Lab, Progress};

/// Measures the relays
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// All benchmarks except `first-run`, one after the other; prints which targets are met
    All,
    /// Memory with 50,000 queued messages to a dead destination, and delivery to a healthy one beside them
    Backlog(backlog::Backlog),
    /// Messages between two Delta Chat clients, on a relay and on one that does nothing
    Chat(chat::Chat),
    /// Latency from submission to the IDLE notification and to FETCH, within one relay and across two
    Delivery(delivery::Delivery),
    /// A first demo, with everything compiled and installed in a separate directory, and a second run
    FirstRun,
    /// Expiry and storage report on stores of 100,000 and 1,000,000 messages; needs no relay
    Expire(expire::Expire),
    /// Throughput between two relays over HTTPS, over SMTP, and with Postfix's own client
    Federation(federation::Federation),
    /// CPU time and rate of the filter, and one large message; needs no relay
    Filter(filter::Filter),
    /// Memory and wake-ups of a relay whose clients wait for mail
    Idle(idle::Idle),
    /// Logins over IMAP: rate, CPU time, and latency during a flood
    Logins(logins::Logins),
    /// Requests to chatmail-metadata, and queues of 100,000 and 1,000,000 notifications; needs no relay
    Metadata(metadata::Metadata),
    /// What an account, a client and a message cost beside 1,000, 10,000 and 100,000 accounts
    Scale(scale::Scale),
    /// A relay with one processor and 512 MiB of memory: scenarios and overload
    Small(small::Small),
    /// Messages per second within one relay, CPU time of each, and whether any is deferred or lost
    Throughput(throughput::Throughput),
}

/// What `bench all` runs.
const ALL: [&str; 12] = [
    "filter",
    "delivery",
    "chat",
    "throughput",
    "federation",
    "backlog",
    "logins",
    "idle",
    "small",
    "scale",
    "expire",
    "metadata",
];

/// The arguments of one benchmark.
#[derive(clap::Parser)]
struct One {
    #[command(subcommand)]
    which: Bench,
}

/// Runs a benchmark. The exit code tells whether all of its targets are met.
pub(crate) async fn bench(which: &Bench) -> anyhow::Result<ExitCode> {
    let met = match which {
        Bench::All => all().await?,
        one => measure(one).await?.iter().all(Target::holds),
    };
    Ok(ExitCode::from(u8::from(!met)))
}

async fn measure(which: &Bench) -> anyhow::Result<Vec<Target>> {
    let report = match which {
        // lab-front measures the first run, because it includes compiling the lab.
        Bench::All | Bench::FirstRun => bail!("start this benchmark with `cargo lab bench first-run`"),
        Bench::Backlog(arguments) => backlog::run(arguments).await,
        Bench::Chat(arguments) => chat::run(arguments).await,
        Bench::Delivery(arguments) => delivery::run(arguments).await,
        Bench::Expire(arguments) => expire::run(arguments).await,
        Bench::Federation(arguments) => federation::run(arguments).await,
        Bench::Filter(arguments) => filter::run(arguments).await,
        Bench::Idle(arguments) => idle::run(arguments).await,
        Bench::Logins(arguments) => logins::run(arguments).await,
        Bench::Metadata(arguments) => metadata::run(arguments).await,
        Bench::Scale(arguments) => scale::run(arguments).await,
        Bench::Small(arguments) => small::run(arguments).await,
        Bench::Throughput(arguments) => throughput::run(arguments).await,
    };
    report?.finish()
}

/// Runs each benchmark with its defaults, on the same relays. A benchmark that fails does not prevent the others.
async fn all() -> anyhow::Result<bool> {
    let lab = Lab::up(&Progress::new()).await?;
    let mut lines = Vec::new();
    let mut met = true;
    for name in ALL {
        println!("\n{name}");
        let One { which } = One::try_parse_from(["bench", name])?;
        match measure(&which).await {
            Ok(targets) => {
                met &= targets.iter().all(Target::holds);
                lines.extend(targets.iter().map(|target| format!("{name:12}{target}")));
            }
            Err(error) => {
                met = false;
                lines.push(format!("{name:12}FAILED {error:#}"));
            }
        }
    }
    lab.release().await?;
    println!("\nAll targets");
    for line in lines {
        println!("{line}");
    }
    Ok(met)
}
