//! Benchmarks that need relays.

use anyhow::Context as _;

use super::report::Report;
use crate::machine::{Lab, Progress, interrupted};

/// Starts the relays, or uses running ones, and measures them. With `keep`, they run on afterwards.
pub(super) async fn on_relays(
    keep: bool,
    measure: impl AsyncFnOnce(&Lab, &Progress) -> anyhow::Result<Report>,
) -> anyhow::Result<Report> {
    let progress = Progress::new();
    let lab = Lab::up(&progress).await?;
    let measured = tokio::select! {
        measured = measure(&lab, &progress) => measured,
        signal = interrupted() => Err(signal),
    };
    if !keep {
        lab.release().await.context("cannot stop the relays")?;
    }
    measured
}
