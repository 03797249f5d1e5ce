//! `cargo lab bench`: measures the relays and their services.

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
    /// Latency from submission to the IDLE notification and to FETCH, within one relay and across two
    Delivery(delivery::Delivery),
    /// A first demo, with everything compiled and installed in a separate directory, and a second run
    FirstRun,
    /// Expiry and storage report on stores of 100,000 and 1,000,000 messages; needs no relay
    Expire(expire::Expire),
    /// Logins over IMAP: rate, CPU time, and latency during a flood
    Logins(logins::Logins),
    /// Requests to chatmail-metadata, and queues of 100,000 and 1,000,000 notifications; needs no relay
    Metadata(metadata::Metadata),
    /// Messages per second within one relay, CPU time of each, and whether any is deferred or lost
    Throughput(throughput::Throughput),
}

/// Runs a benchmark.
pub(crate) async fn bench(which: &Bench) -> anyhow::Result<ExitCode> {
    match which {
        Bench::Delivery(arguments) => delivery::run(arguments).await,
        // lab-front measures it, because it includes compiling the lab.
        Bench::FirstRun => bail!("start this benchmark with `cargo lab bench first-run`"),
        Bench::Expire(arguments) => expire::run(arguments).await,
        Bench::Logins(arguments) => logins::run(arguments).await,
        Bench::Metadata(arguments) => metadata::run(arguments).await,
        Bench::Throughput(arguments) => throughput::run(arguments).await,
    }
}
