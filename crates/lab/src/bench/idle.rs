//! Memory of a relay whose clients wait for mail, and how often its services wake up meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::{Account, Peer};
use tokio::sync::Semaphore;
use tokio::task::JoinSet;

use super::relays::without_limits;
use super::report::Report;
use super::target::Target;
use crate::machine::{Lab, Progress, Usage};

const RELAY: &str = "a";
/// Concurrent logins during the preparation. Each of them costs a password hash.
const AT_ONCE: usize = 8;
/// How often to look whether sessions hibernate.
const LOOK: Duration = Duration::from_millis(500);
/// How long sessions may take to hibernate.
const HIBERNATION: Duration = Duration::from_secs(180);
/// How long to count wake-ups.
const WATCH: Duration = Duration::from_secs(60);
const MEBIBYTE: f64 = 1024.0 * 1024.0;
/// Units of this project.
const OURS: [&str; 9] = [
    "chatmail-metadata",
    "chatmail-websocket",
    "doveauth",
    "filtermail-incoming",
    "filtermail-mxdeliv",
    "filtermail-outgoing",
    "filtermail-transport",
    "lastlogin",
    "newemail",
];

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Idle {
    /// Number of accounts
    #[arg(long, value_name = "N", default_value_t = 1000)]
    accounts: usize,
    /// Number of clients in IDLE
    #[arg(long, value_name = "N", default_value_t = 100)]
    clients: usize,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures relay a.
pub(super) async fn run(arguments: &Idle) -> anyhow::Result<Report> {
    ensure!(arguments.clients > 0, "--clients must be 1 or more");
    ensure!(
        arguments.accounts >= arguments.clients,
        "--accounts must be at least as many as --clients"
    );
    without_limits(arguments.keep, RELAY, async |lab, progress| {
        measure(lab, progress, arguments).await
    })
    .await
}

async fn measure(lab: &Lab, progress: &Progress, arguments: &Idle) -> anyhow::Result<Report> {
    let peer = Peer::of(lab.topology(), RELAY)?;
    progress.say(format_args!("creating {} accounts", arguments.accounts));
    for_each(
        arguments.accounts - arguments.clients,
        |account| async move { account.imap().await.map(drop) },
        &peer,
    )
    .await?;
    let without = sessions(lab).await?;
    let clients = for_each(
        arguments.clients,
        |account| async move { Ok(account.inbox().await?.0) },
        &peer,
    )
    .await?;
    let mut report = Report::new("Idle");
    let (before, mut waiting) = wait(clients).await?;
    let awake = sessions(lab).await?;
    let each = |with: &Sessions| {
        with.memory.saturating_sub(without.memory) as f64 / arguments.clients as f64 / 1024.0
    };
    report.line(format_args!(
        "{} clients in IDLE, {:.1} s after the last login: {} imap processes, {:.0} KiB PSS of Dovecot per session",
        arguments.clients,
        before.elapsed().as_secs_f64(),
        awake.processes,
        each(&awake)
    ));
    let end = Instant::now() + HIBERNATION;
    let asleep = loop {
        let now = sessions(lab).await?;
        // Without sessions, Dovecot keeps a few imap processes ready.
        if now.processes <= without.processes.max(8) || Instant::now() > end {
            break now;
        }
        tokio::select! {
            ended = waiting.join_next() => {
                ended.context("no client is left")???;
                anyhow::bail!("a client left IDLE");
            }
            () = tokio::time::sleep(LOOK) => {}
        }
    };
    report.line(format_args!(
        "{:.0} s later: {} imap processes, {:.0} KiB PSS of Dovecot per session",
        before.elapsed().as_secs_f64(),
        asleep.processes,
        each(&asleep)
    ));
    report.target(Target::at_most(
        0.9 * 1024.0,
        "KiB",
        "an idle session before hibernation",
        each(&awake),
    ));
    report.target(Target::at_most(
        80.0,
        "KiB",
        "an idle session in hibernation",
        each(&asleep),
    ));
    memory(lab, &mut report)?;

    progress.say(format_args!("counting wake-ups for {} s", WATCH.as_secs()));
    let earlier = wake_ups(lab).await?;
    tokio::time::sleep(WATCH).await;
    let mut woken = 0;
    for (unit, count) in wake_ups(lab).await? {
        let count = count.saturating_sub(earlier.get(&unit).copied().unwrap_or(count));
        if count > 0 {
            report.line(format_args!(
                "{unit} wakes up {count} times in {} s",
                WATCH.as_secs()
            ));
        }
        woken += count;
    }
    report.target(Target::at_most(
        0.0,
        "in 60 s",
        "wake-ups of our services",
        woken as f64,
    ));
    Ok(report)
}

/// Does something with this many new accounts, a few at once.
async fn for_each<T, F>(count: usize, work: impl Fn(Account) -> F, peer: &Peer) -> anyhow::Result<Vec<T>>
where
    T: Send + 'static,
    F: Future<Output = anyhow::Result<T>> + Send + 'static,
{
    let turns = Arc::new(Semaphore::new(AT_ONCE));
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let (turns, work) = (Arc::clone(&turns), work(Account::random(peer)));
        tasks.spawn(async move {
            let _turn = turns.acquire().await?;
            work.await
        });
    }
    let mut done = Vec::with_capacity(count);
    while let Some(ended) = tasks.join_next().await {
        done.push(ended??);
    }
    Ok(done)
}

/// All clients begin to wait. Returns when the last of them did; the tasks end when a client is told something.
pub(super) async fn wait(clients: Vec<Imap>) -> anyhow::Result<(Instant, JoinSet<anyhow::Result<()>>)> {
    let mut waiting = JoinSet::new();
    let ready = Arc::new(tokio::sync::Barrier::new(clients.len() + 1));
    for mut imap in clients {
        let ready = Arc::clone(&ready);
        waiting.spawn(async move {
            let mut idle = imap.idle().await?;
            ready.wait().await;
            idle.exists(u32::MAX, Duration::from_secs(3600)).await?;
            anyhow::Ok(())
        });
    }
    tokio::select! {
        _ = ready.wait() => Ok((Instant::now(), waiting)),
        // The barrier needs all of them.
        () = failed(&mut waiting) => anyhow::bail!("a client cannot enter IDLE"),
    }
}

async fn failed(waiting: &mut JoinSet<anyhow::Result<()>>) {
    while let Some(ended) = waiting.join_next().await {
        if !matches!(ended, Ok(Ok(()))) {
            return;
        }
    }
}

/// Memory of Dovecot in bytes, and number of processes that serve sessions.
pub(super) struct Sessions {
    pub(super) memory: u64,
    processes: usize,
}

pub(super) async fn sessions(lab: &Lab) -> anyhow::Result<Sessions> {
    let dovecot = lab.usage(RELAY)?.remove("dovecot").context("no Dovecot")?;
    let counted = lab.exec(RELAY, &["pgrep", "--count", "--exact", "imap"]).await?;
    let counted = String::from_utf8_lossy(&counted.stdout);
    Ok(Sessions {
        memory: dovecot.memory,
        processes: counted.trim().parse().context("pgrep printed no number")?,
    })
}

/// Memory of our services together, and of all units.
fn memory(lab: &Lab, report: &mut Report) -> anyhow::Result<()> {
    let units: BTreeMap<String, Usage> = lab.usage(RELAY)?;
    let mebibytes = |bytes: u64| bytes as f64 / MEBIBYTE;
    let mut sorted: Vec<(&String, &Usage)> = units.iter().filter(|(_, usage)| usage.memory > 0).collect();
    sorted.sort_by_key(|(_, usage)| std::cmp::Reverse(usage.memory));
    for (name, usage) in sorted {
        report.line(format_args!("{name:28}{:>8.1} MiB", mebibytes(usage.memory)));
    }
    let ours = units
        .iter()
        .filter(|(name, _)| OURS.contains(&name.as_str()))
        .map(|(_, usage)| usage.memory)
        .sum();
    let all = units.values().map(|usage| usage.memory).sum();
    report.target(Target::at_most(
        20.0,
        "MiB",
        "our services together",
        mebibytes(ours),
    ));
    report.target(Target::at_most(150.0, "MiB", "the whole relay", mebibytes(all)));
    Ok(())
}

/// How often the threads of each of our services have given up the processor to wait for something.
async fn wake_ups(lab: &Lab) -> anyhow::Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    for unit in OURS {
        let script = format!(
            "pid=$(systemctl show --value -p MainPID {unit}); test \"$pid\" = 0 || \
             awk '/^voluntary_ctxt_switches/ {{ sum += $2 }} END {{ print sum }}' /proc/$pid/task/*/status"
        );
        let output = lab.exec(RELAY, &["sh", "-c", &script]).await?;
        let text = String::from_utf8_lossy(&output.stdout);
        if let Ok(count) = text.trim().parse() {
            counts.insert(unit.to_owned(), count);
        }
    }
    ensure!(!counts.is_empty(), "none of our services runs");
    Ok(counts)
}
