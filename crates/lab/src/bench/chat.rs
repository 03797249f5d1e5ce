//! Delta Chat as users have it: how long a message takes from the sender's client to the receiver's, on a relay and on
//! one that does nothing.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::deltachat::Pair;

use super::nothing::Nothing;
use super::relays::without_limits;
use super::report::Report;
use super::stats::{Summary, milliseconds};
use super::target::Target;
use crate::machine::{Lab, Progress};

const RELAY: &str = "a";
/// Milliseconds that the relay may add to the client's own time, for half of the messages.
const BOUND: f64 = 15.0;

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Chat {
    /// Messages on each relay
    #[arg(long, value_name = "N", default_value_t = 200)]
    messages: usize,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures relay a and a relay that does nothing in turns.
pub(super) async fn run(arguments: &Chat) -> anyhow::Result<Report> {
    ensure!(arguments.messages > 0, "--messages must be 1 or more");
    without_limits(arguments.keep, RELAY, async |lab, progress| {
        measure(lab, progress, arguments.messages).await
    })
    .await
}

async fn measure(lab: &Lab, progress: &Progress, messages: usize) -> anyhow::Result<Report> {
    let nothing = Nothing::start(&lab.certificate(&["nothing.test".to_owned()])?).await?;
    let context = mailtest::Context::new(lab.topology().clone(), crate::machine::cache()?);
    let program = context.program().await?;
    progress.say("preparing Delta Chat");
    let ours = context.local().await?;
    let floor = Pair::verify(
        program.user_of_code("carol", &nothing.code("carol")).await?,
        program.user_of_code("dave", &nothing.code("dave")).await?,
    )
    .await
    .context("with the relay that does nothing")?;
    progress.say("measuring messages");
    let mut times = [Vec::new(), Vec::new()];
    // In turns, so that other load affects both.
    for number in 0..messages {
        for (pair, times) in [ours, &floor].into_iter().zip(&mut times) {
            times.push(message(pair, &format!("message {number}")).await?);
        }
    }
    let mut report = Report::new("Delta Chat");
    report.line(format_args!(
        "{messages} messages between two clients of Delta Chat {}, from sending to the receiver's event",
        mailtest::client::deltachat::install::VERSION,
    ));
    let [ours, floor] = times.map(Summary::of);
    let (ours, floor) = (ours.context("no message")?, floor.context("no message")?);
    for (name, times) in [("relay that does nothing", floor), ("relay a", ours)] {
        report.line(format_args!(
            "{name:24}p50 {:.1} ms, p95 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
            milliseconds(times.p50),
            milliseconds(times.p95),
            milliseconds(times.p99),
            milliseconds(times.max)
        ));
    }
    report.target(Target::at_most(
        BOUND,
        "ms",
        "p50 above that of a relay that does nothing",
        milliseconds(ours.p50) - milliseconds(floor.p50),
    ));
    Ok(report)
}

/// Time from sending a message to the receiver's event.
async fn message(pair: &Pair, text: &str) -> anyhow::Result<Duration> {
    let mark = pair.other.mark();
    let start = Instant::now();
    pair.one.send(pair.one_chat, text).await?;
    let (_, at) = pair.other.receive(mark, text).await?;
    Ok(at.saturating_duration_since(start))
}
