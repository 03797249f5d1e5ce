//! Tens of thousands of queued messages to a destination that does not answer: what they cost, and whether mail to a
//! healthy relay still flows.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::{Account, Peer, pgp};

use super::cost;
use super::load::{Load, People};
use super::relays::without_limits;
use super::report::Report;
use super::setup;
use super::stats::{Summary, milliseconds};
use super::target::Target;
use crate::machine::{Lab, Progress, dead_addresses};

const FROM: &str = "a";
const TO: &str = "b";
const ZONE: &str = "backlog.test";
/// File with the message, in the sending relay.
const MESSAGE: &str = "/etc/chatmail-bench/message";
/// Where filtermail returns submitted mail to Postfix.
const QUEUE: &str = "unix:/var/lib/postfix/queue/public/filtered-outgoing";
/// Messages for each run of smtp-source(1), which must take less than a minute.
const BATCH: usize = 1000;
/// Time between two messages to the healthy relay: far from what it can take, so that waiting for anything else shows.
const EVERY: Duration = Duration::from_millis(100);
/// How long to wait for messages to the healthy relay. Postfix may be busy with the dead destination meanwhile.
const PATIENCE: Duration = Duration::from_secs(120);
/// How long Postfix may take to try all messages.
const SETTLED: Duration = Duration::from_secs(600);
const LOOK: Duration = Duration::from_secs(1);

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Backlog {
    /// Messages to the dead destination
    #[arg(long, value_name = "N", default_value_t = 50_000)]
    queued: usize,
    /// Messages to the healthy relay, in each measurement
    #[arg(long, value_name = "N", default_value_t = 300)]
    messages: usize,
    /// Bytes of ciphertext per message
    #[arg(long, value_name = "BYTES", default_value_t = 1300)]
    size: usize,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures deliveries from relay a to relay b, first alone and then beside the backlog.
pub(super) async fn run(arguments: &Backlog) -> anyhow::Result<Report> {
    ensure!(arguments.messages > 0, "--messages must be 1 or more");
    without_limits(arguments.keep, FROM, async |lab, progress| {
        let measured = measure(lab, progress, arguments).await;
        setup::run(lab, FROM, "postsuper -d ALL").await?;
        measured
    })
    .await
}

async fn measure(lab: &Lab, progress: &Progress, arguments: &Backlog) -> anyhow::Result<Report> {
    let mut report = Report::new("Backlog");
    let alone = Flow::measure(lab, arguments).await?;
    report.line(format_args!(
        "{} messages of {} bytes of ciphertext to a healthy relay",
        arguments.messages, arguments.size
    ));
    report.line(alone.line("alone"));

    let from = Account::random(&Peer::of(lab.topology(), FROM)?).address;
    prepare(lab, &from, arguments.size).await?;
    progress.say(format_args!("queuing {} messages", arguments.queued));
    let begin = Instant::now();
    let work = async {
        fill(lab, &from, arguments.queued).await?;
        report.line(format_args!(
            "\n{} messages to a destination that does not answer, queued within {:.0} s",
            arguments.queued,
            begin.elapsed().as_secs_f64()
        ));
        let mut flows = vec![("after they were queued", Flow::measure(lab, arguments).await?)];
        progress.say("waiting until Postfix has tried all of them");
        settle(lab).await?;
        flows.push(("while they wait", Flow::measure(lab, arguments).await?));
        setup::run(lab, FROM, "postqueue -f").await?;
        flows.push((
            "while Postfix tries them again",
            Flow::measure(lab, arguments).await?,
        ));
        anyhow::Ok(flows)
    };
    let (flows, cost) = cost::during(lab, FROM, work).await?;
    for (when, flow) in &flows {
        report.line(flow.line(when));
    }
    report.line("CPU time for each queued message, and the largest memory");
    for line in cost.lines(arguments.queued, "message") {
        report.line(line);
    }
    report.line(format_args!(
        "qmgr(8) alone has {:.1} MiB",
        memory(lab, "qmgr").await?
    ));
    for (when, flow) in &flows {
        report.target(Target::at_least(
            arguments.queued as f64,
            "messages",
            format!("queued, {when}"),
            flow.queued as f64,
        ));
        report.target(Target::at_most(
            0.0,
            "messages",
            format!("not fetched, {when}"),
            flow.lost as f64,
        ));
        report.target(Target::at_most(
            2.0,
            "times",
            format!("p99 to the healthy relay, {when}"),
            flow.p99() / alone.p99(),
        ));
    }
    Ok(report)
}

/// Mail to the healthy relay.
struct Flow {
    delivery: Option<Summary>,
    lost: usize,
    /// Messages in the queue at the end.
    queued: usize,
}

impl Flow {
    async fn measure(lab: &Lab, arguments: &Backlog) -> anyhow::Result<Self> {
        let load = Load {
            senders: 1,
            receivers: 10,
            messages: arguments.messages,
            size: arguments.size,
            every: Some(EVERY),
        };
        let (from, to) = (Peer::of(lab.topology(), FROM)?, Peer::of(lab.topology(), TO)?);
        let outcome = People::gather(&from, &to, load)
            .await?
            .play(load, PATIENCE)
            .await?;
        Ok(Self {
            delivery: outcome.delivery,
            lost: outcome.lost,
            queued: files(lab, "incoming active deferred").await?,
        })
    }

    fn p99(&self) -> f64 {
        self.delivery
            .map_or(f64::NAN, |summary| summary.p99.as_secs_f64())
    }

    fn line(&self, when: &str) -> String {
        let times = self.delivery.map_or_else(
            || "none".to_owned(),
            |all| {
                format!(
                    "p50 {:.1} ms, p99 {:.1} ms, max {:.1} ms",
                    milliseconds(all.p50),
                    milliseconds(all.p99),
                    milliseconds(all.max)
                )
            },
        );
        format!(
            "{when}: 250 to FETCH {times}; {} messages in the queue at the end",
            self.queued
        )
    }
}

/// Publishes the dead destination, and writes the message.
async fn prepare(lab: &Lab, from: &str, size: usize) -> anyhow::Result<()> {
    let dead = dead_addresses(FROM, 1)?;
    let address = dead.first().context("no address")?;
    let zone = format!("{ZONE}. 60 IN A {address}\n{ZONE}. 60 IN MX 10 {ZONE}.\n");
    lab.publish(ZONE, &zone).await?;
    let message = pgp::encrypted(from, size).bytes();
    let text = String::from_utf8(message)?.replace("\r\n", "\n");
    std::fs::write(lab.root(FROM).join(MESSAGE.trim_start_matches('/')), text)
        .with_context(|| format!("cannot write {MESSAGE}"))
}

/// Queues messages as filtermail does after it has accepted them.
async fn fill(lab: &Lab, from: &str, count: usize) -> anyhow::Result<()> {
    let mut left = count;
    while left > 0 {
        let batch = left.min(BATCH);
        setup::run(
            lab,
            FROM,
            &format!("smtp-source -s 4 -m {batch} -f {from} -t someone@{ZONE} -F {MESSAGE} {QUEUE}"),
        )
        .await?;
        left -= batch;
    }
    Ok(())
}

/// Waits until all messages are deferred.
async fn settle(lab: &Lab) -> anyhow::Result<()> {
    let end = Instant::now() + SETTLED;
    while files(lab, "incoming active").await? > 0 {
        ensure!(Instant::now() < end, "Postfix does not defer all messages");
        tokio::time::sleep(LOOK).await;
    }
    Ok(())
}

/// Number of messages in these queues. Looks twice, because a message that moves meanwhile can escape the first look.
async fn files(lab: &Lab, queues: &str) -> anyhow::Result<usize> {
    let look = format!("find {queues} -type f -printf '%f\\n'");
    let script = format!("cd /var/lib/postfix/queue; {{ {look}; {look}; }} | sort -u | wc -l");
    let text = setup::run(lab, FROM, &script).await?;
    text.trim().parse().context("wc printed no number")
}

/// Memory of a process of the sending relay, in MiB.
async fn memory(lab: &Lab, process: &str) -> anyhow::Result<f64> {
    let script =
        format!("awk '/^Pss:/ {{ print $2 }}' /proc/$(pgrep --oldest --exact {process})/smaps_rollup");
    let kibibytes: f64 = setup::run(lab, FROM, &script)
        .await?
        .trim()
        .parse()
        .context("no PSS")?;
    Ok(kibibytes / 1024.0)
}
