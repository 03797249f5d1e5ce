//! Latency of single messages, sent one after the other over established connections.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::smtp::Smtp;
use mailtest::client::{Account, Peer, pgp};

use super::hops::{self, Entry, Mark, Micros, ONE_RELAY, Seen, TWO_RELAYS};
use super::relays::on_relays;
use super::report::Report;
use super::stats::{Summary, milliseconds};
use super::target::Target;
use crate::machine::{Lab, Progress};

/// Bytes of ciphertext in a message. The message then has 2.8 kB, like a text message of Delta Chat.
const SIZE: usize = 1300;
/// Measured messages per sender. Together with the first one, which is not measured, this is the number of messages
/// that an account may send at once.
const PER_SENDER: usize = 9;
/// A message that takes longer counts as lost.
const LOST: Duration = Duration::from_secs(10);
/// At this level, the filters log how long each pass takes.
const TIMES: &str = "Environment=RUST_LOG=filtermail=debug";
/// Without the log filter of its unit, Postfix logs when it queues a message.
const ALL_LINES: &str = "LogFilterPatterns=";
/// Units, and the settings that make them log more.
const DROP_INS: [(&str, &str); 3] = [
    ("filtermail-incoming.service", TIMES),
    ("filtermail-outgoing.service", TIMES),
    ("postfix.service", ALL_LINES),
];

/// Delivery from relay a to one of the relays.
struct Way {
    title: &'static str,
    to: &'static str,
    marks: &'static [Mark],
    /// Milliseconds that half of the messages, and 99 of 100, may take until the notification.
    bounds: [f64; 2],
}

const WAYS: &[Way] = &[
    Way {
        title: "within one relay",
        to: "a",
        marks: ONE_RELAY,
        bounds: [12.0, 40.0],
    },
    Way {
        title: "across two relays",
        to: "b",
        marks: TWO_RELAYS,
        bounds: [20.0, 60.0],
    },
];

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Delivery {
    /// Messages per measurement
    #[arg(long, default_value_t = 500)]
    messages: usize,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures delivery within relay a, and from relay a to relay b.
pub(super) async fn run(arguments: &Delivery) -> anyhow::Result<Report> {
    ensure!(arguments.messages > 0, "--messages must be 1 or more");
    on_relays(arguments.keep, async |lab, progress| {
        let measured = measure_all(lab, progress, arguments.messages).await;
        for relay in ["a", "b"] {
            set_logs(lab, relay, false).await?;
        }
        measured
    })
    .await
}

async fn measure_all(lab: &Lab, progress: &Progress, messages: usize) -> anyhow::Result<Report> {
    let mut report = Report::new("Delivery");
    for relay in ["a", "b"] {
        set_logs(lab, relay, true).await?;
    }
    for way in WAYS {
        progress.say(format_args!("measuring delivery {}", way.title));
        let seen = measure(lab, "a", way.to, messages).await?;
        let mut entries = journal(lab, "a", &seen).await?;
        if way.to != "a" {
            entries.extend(journal(lab, way.to, &seen).await?);
        }
        print(&mut report, way, &seen, entries);
    }
    Ok(report)
}

async fn set_logs(lab: &Lab, relay: &str, more: bool) -> anyhow::Result<()> {
    for (unit, setting) in DROP_INS {
        let directory = format!("/run/systemd/system/{unit}.d");
        let write =
            format!("mkdir -p {directory} && printf '[Service]\\n{setting}\\n' > {directory}/bench.conf");
        let remove = format!("rm -f {directory}/bench.conf");
        let change = if more { write } else { remove };
        let script = format!("{change} && systemctl daemon-reload && systemctl restart {unit}");
        let output = lab.exec(relay, &["sh", "-c", &script]).await?;
        ensure!(
            output.status.success(),
            "{unit} on relay {relay}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
    }
    Ok(())
}

fn now() -> Micros {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.as_micros().try_into().unwrap_or(Micros::MAX)
}

async fn measure(lab: &Lab, from: &str, to: &str, messages: usize) -> anyhow::Result<Vec<Seen>> {
    let (from, to) = (Peer::of(lab.topology(), from)?, Peer::of(lab.topology(), to)?);
    let receiver = Account::random(&to);
    let (mut imap, _) = receiver.inbox().await?;
    let mut senders = Vec::new();
    for _ in 0..messages.div_ceil(PER_SENDER) {
        let sender = Account::random(&from);
        let mut smtp = sender.smtp().await?;
        one(&sender, &mut smtp, &receiver, &mut imap)
            .await
            .context("warming up")?;
        senders.push((sender, smtp));
    }
    let mut seen = Vec::with_capacity(messages);
    'all: for _ in 0..PER_SENDER {
        for (sender, smtp) in &mut senders {
            if seen.len() == messages {
                break 'all;
            }
            seen.push(one(sender, smtp, &receiver, &mut imap).await?);
        }
    }
    Ok(seen)
}

/// Sends one message and fetches it, then deletes it, as Delta Chat does.
async fn one(sender: &Account, smtp: &mut Smtp, receiver: &Account, imap: &mut Imap) -> anyhow::Result<Seen> {
    let message = pgp::encrypted(&sender.address, SIZE);
    let bytes = message.bytes();
    let mut idle = imap.idle().await?;
    let (start, clock) = (now(), Instant::now());
    let receive = async {
        let (sequence, notified) = idle.exists(1, LOST).await?;
        let stored = idle.done().await?.fetch(sequence).await?;
        anyhow::Ok((notified.saturating_duration_since(clock), clock.elapsed(), stored))
    };
    let to = [receiver.address.as_str()];
    let (reply, received) = tokio::join!(smtp.send(&sender.address, &to, &bytes), receive);
    reply?.expect(250)?;
    let (notified, fetched, stored) = received?;
    let id = mailtest::client::message::header(&stored, "Message-ID");
    ensure!(id == [message.id()], "another message arrived");
    imap.empty().await?;
    let after = |time: Duration| start + Micros::try_from(time.as_micros()).unwrap_or(Micros::MAX);
    Ok(Seen {
        start,
        notified: after(notified),
        fetched: after(fetched),
    })
}

/// What a relay has logged since the first message.
async fn journal(lab: &Lab, relay: &'static str, seen: &[Seen]) -> anyhow::Result<Vec<Entry>> {
    let from = seen.first().map_or(0, |first| first.start) / 1_000_000;
    let fields = "--output-fields=MESSAGE,_SOURCE_REALTIME_TIMESTAMP,SYSLOG_IDENTIFIER,_SYSTEMD_UNIT";
    let since = format!("--since=@{from}");
    lab.exec(relay, &["journalctl", "--sync"]).await?;
    let output = lab
        .exec(relay, &["journalctl", "--quiet", "--output=json", fields, &since])
        .await?;
    ensure!(
        output.status.success(),
        "journalctl on relay {relay} failed: {}",
        output.status
    );
    Ok(hops::entries(relay, &String::from_utf8_lossy(&output.stdout)))
}

fn print(report: &mut Report, way: &Way, seen: &[Seen], mut entries: Vec<Entry>) {
    entries.sort_by_key(|entry| entry.at);
    let since_start = |pick: fn(&Seen) -> Micros| {
        Summary::of(
            seen.iter()
                .map(|seen| Duration::from_micros(pick(seen).saturating_sub(seen.start))),
        )
    };
    report.line(format_args!(
        "\nDelivery {}, {} messages of {SIZE} bytes of ciphertext",
        way.title,
        seen.len()
    ));
    report.line(format_args!(
        "{:44}{:>10}{:>10}{:>10}{:>10}{:>8}",
        "", "p50", "p95", "p99", "max", "share"
    ));
    let notified = since_start(|seen| seen.notified);
    line(report, "submission to IDLE notification", notified, None);
    let figures = notified.map_or([f64::NAN; 2], |all| [all.p50, all.p99].map(milliseconds));
    for ((figure, bound), percentile) in figures.into_iter().zip(way.bounds).zip(["p50", "p99"]) {
        let what = format!(
            "{percentile} from submission to the IDLE notification, {}",
            way.title
        );
        report.target(Target::at_most(bound, "ms", what, figure));
    }
    let whole = since_start(|seen| seen.fetched);
    line(report, "submission to FETCH", whole, None);

    let mut times: Vec<(&'static str, Vec<Duration>)> = Vec::new();
    for seen in seen {
        // Entries are sorted by time, so each message needs only a few of them.
        let first = entries.partition_point(|entry| entry.at < seen.start);
        let last = entries.partition_point(|entry| entry.at <= seen.fetched);
        for (hop, time) in hops::hops(way.marks, entries.get(first..last).unwrap_or_default(), *seen) {
            match times.iter_mut().find(|(known, _)| *known == hop) {
                Some((_, times)) => times.push(time),
                None => times.push((hop, vec![time])),
            }
        }
    }
    report.line("  of which");
    let order = way
        .marks
        .iter()
        .map(|mark| mark.hop)
        .chain([hops::NOTIFICATION, hops::FETCH]);
    for hop in order {
        let of_hop = times
            .iter()
            .find(|(known, _)| *known == hop)
            .map(|(_, times)| times.iter().copied());
        line(report, &format!("  {hop}"), of_hop.and_then(Summary::of), whole);
    }
}

fn line(report: &mut Report, name: &str, summary: Option<Summary>, whole: Option<Summary>) {
    let Some(summary) = summary else {
        report.line(format_args!("{name:44}{:>30}", "nothing logged"));
        return;
    };
    let ms = |time: Duration| format!("{:.2} ms", milliseconds(time));
    let share = whole
        .filter(|whole| !whole.total.is_zero())
        .map_or_else(String::new, |whole| {
            format!(
                "{:.1} %",
                100.0 * summary.total.as_secs_f64() / whole.total.as_secs_f64()
            )
        });
    report.line(format_args!(
        "{name:44}{:>10}{:>10}{:>10}{:>10}{share:>8}",
        ms(summary.p50),
        ms(summary.p95),
        ms(summary.p99),
        ms(summary.max)
    ));
}
