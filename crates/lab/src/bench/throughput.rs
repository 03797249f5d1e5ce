//! Throughput of messages within one relay, from submission to FETCH.

use std::time::Duration;

use chatmail_core::postqueue::Message;
use mailtest::client::Peer;

use super::cost::{self, Cost};
use super::load::{Load, Outcome, People, Traffic};
use super::relays::on_relays;
use super::report::Report;
use super::setup::{Setup, apply, undo};
use super::stats::Summary;
use super::target::Target;
use crate::machine::{Lab, Progress};

const RELAY: &str = "a";
/// How long to wait for messages after the last 250. Postfix retries a deferred message later than that
/// (`minimal_backoff_time`), so it counts as lost.
pub(super) const PATIENCE: Duration = Duration::from_secs(50);
/// How often to list the queue: several times before Postfix retries a deferred message.
const LOOK: Duration = Duration::from_secs(10);

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Throughput {
    /// Concurrent senders; can be given several times
    #[arg(long, value_name = "N", default_values_t = [10, 50, 200])]
    senders: Vec<usize>,
    /// Total number of messages of all senders
    #[arg(long, value_name = "N", default_value_t = 2000)]
    messages: usize,
    #[command(flatten)]
    traffic: Traffic,
    /// Measures only the module's settings
    #[arg(long)]
    no_baseline: bool,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures the defaults of Dovecot and Postfix and then the module's settings, with each number of senders.
pub(super) async fn run(arguments: &Throughput) -> anyhow::Result<Report> {
    arguments.traffic.check(arguments.messages)?;
    on_relays(arguments.keep, async |lab, progress| {
        let measured = measure_all(lab, progress, arguments).await;
        undo(lab, RELAY).await?;
        measured
    })
    .await
}

async fn measure_all(lab: &Lab, progress: &Progress, arguments: &Throughput) -> anyhow::Result<Report> {
    let mut report = Report::new("Throughput");
    for &senders in &arguments.senders {
        let load = arguments.traffic.load(senders, arguments.messages);
        let mut fetched = Vec::new();
        for setup in [Setup::Defaults, Setup::Module] {
            if arguments.no_baseline && setup == Setup::Defaults {
                continue;
            }
            progress.say(format_args!("measuring {senders} senders, {}", setup.name()));
            apply(lab, RELAY, setup).await?;
            let run = measure(lab, load).await?;
            report.line(format_args!("\n{}", run.report(load, setup)));
            fetched.push(run.outcome.fetched_per_second());
            if setup == Setup::Module {
                for target in run.targets(load) {
                    report.target(target);
                }
            }
        }
        if let [baseline, ours] = fetched[..] {
            report.line(format_args!(
                "\n{:.2} times as many messages fetched as with the defaults",
                ours / baseline
            ));
        }
    }
    Ok(report)
}

/// Results of a load.
pub(super) struct Run {
    pub(super) outcome: Outcome,
    cost: Cost,
    /// Messages that Postfix has deferred.
    pub(super) deferred: usize,
    /// Log lines of daemons that have reached a limit.
    limits: Vec<String>,
}

/// Plays a load on relay a.
pub(super) async fn measure(lab: &Lab, load: Load) -> anyhow::Result<Run> {
    let peer = Peer::of(lab.topology(), RELAY)?;
    let people = People::gather(&peer, &peer, load).await?;
    let cursor = lab.cursor(RELAY).await?;
    let mut deferred = std::collections::BTreeSet::new();
    let look = async {
        let mut ticks = tokio::time::interval(LOOK);
        loop {
            ticks.tick().await;
            note_deferred(&mut deferred, lab.queue(RELAY).await?);
        }
    };
    let play = async {
        tokio::select! {
            outcome = people.play(load, PATIENCE) => outcome,
            failed = look => failed,
        }
    };
    let (outcome, cost) = cost::during(lab, RELAY, play).await?;
    note_deferred(&mut deferred, lab.queue(RELAY).await?);
    let mut limits: Vec<String> = lab
        .journal(RELAY, None, &cursor)
        .await?
        .into_iter()
        .filter(|line| line.contains("limit") && line.contains("reached"))
        .collect();
    limits.sort();
    limits.dedup();
    Ok(Run {
        outcome,
        cost,
        deferred: deferred.len(),
        limits,
    })
}

fn note_deferred(known: &mut std::collections::BTreeSet<String>, queue: Vec<Message>) {
    let deferred = queue.into_iter().filter(|queued| queued.delay_reason().is_some());
    known.extend(deferred.map(|queued| queued.queue_id));
}

impl Run {
    /// Milliseconds of CPU time of all daemons per message.
    pub(super) fn cpu_each(&self) -> f64 {
        cost::each(self.cost.total().cpu, self.outcome.sent)
    }

    fn report(&self, load: Load, setup: Setup) -> String {
        let outcome = &self.outcome;
        let mut lines = vec![
            format!(
                "{} senders, {} receivers, {} messages of {} bytes of ciphertext; {}",
                load.senders,
                load.receivers,
                load.messages,
                load.size,
                setup.name()
            ),
            format!(
                "{:.0} accepted and {:.0} fetched per second; {} deferred, {} not fetched, {} fetched twice",
                outcome.sent as f64 / outcome.taking.as_secs_f64(),
                outcome.fetched_per_second(),
                self.deferred,
                outcome.lost,
                outcome.doubled
            ),
            summary("submission, MAIL to 250", outcome.submission),
            summary("delivery, 250 to FETCH", outcome.delivery),
        ];
        lines.extend(self.limits.iter().map(|line| format!("limit: {line}")));
        lines.extend(self.cost.lines(outcome.sent, "message"));
        lines.join("\n")
    }

    fn targets(&self, load: Load) -> Vec<Target> {
        let when = format!("{} senders", load.senders);
        let with = |what: &str| format!("{what}, {when}");
        let p99 = self
            .outcome
            .delivery
            .map_or(f64::NAN, |summary| summary.p99.as_secs_f64());
        let cpu = self.cpu_each();
        let mut targets = self.outcome.targets(self.deferred, &when).to_vec();
        targets.extend([
            Target::at_most(0.0, "lines", with("daemons at a limit"), self.limits.len() as f64),
            Target::at_most(2.0, "s", with("p99 from the 250 to FETCH"), p99),
            Target::at_most(8.0, "ms", with("CPU per message"), cpu),
            Target::at_least(
                200.0,
                "per second",
                with("messages fetched"),
                self.outcome.fetched_per_second(),
            ),
        ]);
        targets
    }
}

fn summary(name: &str, summary: Option<Summary>) -> String {
    let Some(summary) = summary else {
        return format!("{name:24}none");
    };
    let ms = |time: Duration| format!("{:.1} ms", time.as_secs_f64() * 1000.0);
    format!(
        "{name:24}p50 {}, p95 {}, p99 {}, max {}",
        ms(summary.p50),
        ms(summary.p95),
        ms(summary.p99),
        ms(summary.max)
    )
}
