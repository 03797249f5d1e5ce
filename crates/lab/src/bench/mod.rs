//! `cargo lab bench`: how long mail takes, and where.

mod cost;
mod delivery;
mod document;
mod expire;
mod hops;
mod logins;
mod metadata;
mod stats;
mod target;
mod throughput;

use std::process::ExitCode;

use anyhow::bail;

use self::target::Target;

/// Measures the relays
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// From submission to the IDLE notification and to FETCH, on one relay and across two
    Delivery(delivery::Delivery),
    /// The demo from nothing: everything compiled and installed in a directory of its own, and a second run
    FirstRun,
    /// Expiry and report on stores of 100,000 and 1,000,000 messages; needs no relay
    Expire(expire::Expire),
    /// Logins over IMAP: how many in a second, what they cost, and how long one takes during a flood
    Logins(logins::Logins),
    /// Requests to chatmail-metadata, and queues of 100,000 and 1,000,000 notifications; needs no relay
    Metadata(metadata::Metadata),
    /// Messages per second within one relay, what each costs, and that none is deferred or lost
    Throughput(throughput::Throughput),
}

/// Runs a benchmark.
pub(crate) async fn bench(which: &Bench) -> anyhow::Result<ExitCode> {
    match which {
        Bench::Delivery(arguments) => delivery::run(arguments).await,
        // What starts the lab measures it, from the outside.
        Bench::FirstRun => bail!("this benchmark is run as `cargo lab bench first-run`"),
        Bench::Expire(arguments) => expire::run(arguments).await,
        Bench::Logins(arguments) => logins::run(arguments).await,
        Bench::Metadata(arguments) => metadata::run(arguments).await,
        Bench::Throughput(arguments) => throughput::run(arguments).await,
    }
}
