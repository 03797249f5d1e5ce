//! A relay with one processor and 512 MiB of memory: scenarios, overload, and whether the kernel kills a process.

use anyhow::ensure;
use mailtest::{Context, run, scenarios};

use super::load::Traffic;
use super::relays::on_relays;
use super::report::Report;
use super::setup::{self, Setup, apply, undo};
use super::stats::milliseconds;
use super::target::Target;
use super::throughput::measure;
use crate::machine::{Lab, Progress, Size};

const RELAY: &str = "a";
const MEBIBYTE: u64 = 1024 * 1024;

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Small {
    /// Number of processors of the relay
    #[arg(long, value_name = "N", default_value_t = 1)]
    processors: u64,
    /// Memory of the relay in MiB, including the page cache
    #[arg(long, value_name = "MIB", default_value_t = 512)]
    memory: u64,
    /// Concurrent sessions on each SMTP port, as an operator of a small machine sets them (`connections.smtp`)
    #[arg(long, value_name = "N", default_value_t = 60)]
    sessions: usize,
    /// Concurrent senders; can be given several times
    #[arg(long, value_name = "N", default_values_t = [10, 50])]
    senders: Vec<usize>,
    /// Total number of messages of all senders
    #[arg(long, value_name = "N", default_value_t = 1000)]
    messages: usize,
    #[command(flatten)]
    traffic: Traffic,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Boots relay a with these limits and measures it.
pub(super) async fn run(arguments: &Small) -> anyhow::Result<Report> {
    ensure!(arguments.processors > 0, "--processors must be 1 or more");
    arguments.traffic.check(arguments.messages)?;
    on_relays(arguments.keep, async |lab, progress| {
        let size = Size {
            processors: arguments.processors,
            memory: arguments.memory * MEBIBYTE,
        };
        lab.power_off(RELAY).await?;
        lab.power_on_with(RELAY, Some(size)).await?;
        let measured = measure_all(lab, progress, arguments).await;
        undo(lab, RELAY).await?;
        lab.power_off(RELAY).await?;
        lab.power_on(RELAY).await?;
        measured
    })
    .await
}

async fn measure_all(lab: &Lab, progress: &Progress, arguments: &Small) -> anyhow::Result<Report> {
    let mut report = Report::new("Small server");
    report.line(format_args!(
        "{} processor(s), {} MiB of memory, at most {} SMTP sessions per port",
        arguments.processors, arguments.memory, arguments.sessions
    ));
    progress.say("playing the scenarios");
    let all = scenarios::all();
    let context = Context::new(lab.topology().clone(), crate::machine::cache()?);
    let tally = run::play(&context, &run::chosen(&all, &[])).await;
    report.line(format_args!(
        "{} scenarios passed, {} failed",
        tally.passed, tally.failed
    ));
    report.target(Target::at_most(0.0, "scenarios", "failed", tally.failed as f64));
    let killed = lab.used(RELAY)?.oom_kills;
    apply(lab, RELAY, Setup::Module).await?;
    limit_sessions(lab, arguments.sessions).await?;
    for &senders in &arguments.senders {
        progress.say(format_args!("measuring {senders} senders"));
        let load = arguments.traffic.load(senders, arguments.messages);
        let measured = measure(lab, load).await?;
        let outcome = &measured.outcome;
        report.line(format_args!(
            "{senders} senders: {:.0} messages fetched per second; p99 from the 250 to FETCH {:.0} ms",
            outcome.fetched_per_second(),
            outcome.delivery.map_or(f64::NAN, |all| milliseconds(all.p99)),
        ));
        for target in outcome.targets(measured.deferred, &format!("{senders} senders")) {
            report.target(target);
        }
    }
    let used = lab.used(RELAY)?;
    report.line(format_args!(
        "peak memory {} MiB, including the page cache",
        used.peak / MEBIBYTE
    ));
    for (when, count) in [
        ("scenarios", killed),
        ("overload", used.oom_kills.saturating_sub(killed)),
    ] {
        let what = format!("killed because the memory was exhausted, {when}");
        report.target(Target::at_most(0.0, "processes", what, count as f64));
    }
    Ok(report)
}

/// Limits the sessions on each port, and not those of one client: all senders have the same address.
async fn limit_sessions(lab: &Lab, sessions: usize) -> anyhow::Result<()> {
    let script = format!(
        "for port in submission submissions; do \
         postconf -F $port/inet/process_limit={sessions}; \
         postconf -P $port/inet/smtpd_client_connection_count_limit=0; \
         done; postfix reload"
    );
    setup::run(lab, RELAY, &script).await?;
    Ok(())
}
