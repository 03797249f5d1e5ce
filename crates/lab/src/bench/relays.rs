//! Benchmarks that need relays.

use anyhow::Context as _;

use super::report::Report;
use super::setup::{Setup, apply, undo};
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

/// The same with [`apply`] of the module's settings on one relay, and [`undo`] at the end.
pub(super) async fn without_limits(
    keep: bool,
    relay: &str,
    measure: impl AsyncFnOnce(&Lab, &Progress) -> anyhow::Result<Report>,
) -> anyhow::Result<Report> {
    on_relays(keep, async |lab, progress| {
        apply(lab, relay, Setup::Module).await?;
        let measured = measure(lab, progress).await;
        undo(lab, relay).await?;
        measured
    })
    .await
}
