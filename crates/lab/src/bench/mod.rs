//! `cargo lab bench`: how long mail takes, and where.

mod delivery;
mod expire;
mod hops;
mod metadata;
mod stats;

use std::process::ExitCode;

/// Measures the relays
#[derive(Debug, clap::Subcommand)]
pub(crate) enum Bench {
    /// From submission to the IDLE notification and to FETCH, on one relay and across two
    Delivery(delivery::Delivery),
    /// Expiry and report on stores of 100,000 and 1,000,000 messages; needs no relay
    Expire(expire::Expire),
    /// Requests to chatmail-metadata, and queues of 100,000 and 1,000,000 notifications; needs no relay
    Metadata(metadata::Metadata),
}

/// Runs a benchmark.
pub(crate) async fn bench(which: &Bench) -> anyhow::Result<ExitCode> {
    match which {
        Bench::Delivery(arguments) => delivery::run(arguments).await,
        Bench::Expire(arguments) => expire::run(arguments).await,
        Bench::Metadata(arguments) => metadata::run(arguments).await,
    }
}
