//! Logins over IMAP with TLS: their rate and CPU time, and how long a login to an existing account takes while other
//! clients sign up or guess passwords as fast as they can.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Status;
use mailtest::client::message::random_password;
use mailtest::client::{Account, Peer};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::relays::without_limits;
use super::report::Report;
use super::stats::{Summary, milliseconds};
use super::target::Target;
use crate::machine::{Lab, Progress};

const RELAY: &str = "a";
/// Number of clients that sign up or log in at once.
const CLIENTS: usize = 16;
/// Number of clients that guess passwords at once.
const GUESSING: usize = 200;
/// Milliseconds that a login to an existing account may take while others flood the relay.
const BOUND: f64 = 250.0;
/// CPU time that a remembered login may cost doveauth, in percent of that of a hashed login.
const REMEMBERED: f64 = 5.0;
/// Kibibytes of memory that doveauth may use when nobody logs in.
const IDLE_KIB: f64 = 6.0 * 1024.0;
/// Accounts to be created, and remembered logins to be answered, per second.
const SIGN_UPS: f64 = 80.0;
const LOGINS: f64 = 250.0;

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Logins {
    /// Number of accounts
    #[arg(long, default_value_t = 300)]
    accounts: usize,
    /// Duration of each flood in seconds
    #[arg(long, default_value_t = 15)]
    seconds: u64,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures relay a.
pub(super) async fn run(arguments: &Logins) -> anyhow::Result<Report> {
    ensure!(arguments.accounts > 0, "--accounts must be 1 or more");
    without_limits(arguments.keep, RELAY, async |lab, progress| {
        measure(lab, progress, arguments).await
    })
    .await
}

async fn capture(lab: &Lab, argv: &[&str]) -> anyhow::Result<String> {
    let output = lab.exec(RELAY, argv).await?;
    ensure!(output.status.success(), "`{}` failed", argv.join(" "));
    Ok(String::from_utf8(output.stdout)?)
}

/// CPU time that doveauth and Dovecot have used so far.
async fn cpu(lab: &Lab) -> anyhow::Result<[Duration; 2]> {
    let mut all = [Duration::ZERO; 2];
    for (unit, used) in ["doveauth", "dovecot"].into_iter().zip(&mut all) {
        let text = capture(lab, &["systemctl", "show", "--value", "-p", "CPUUsageNSec", unit]).await?;
        *used = Duration::from_nanos(text.trim().parse().context("systemd reports no CPU time")?);
    }
    Ok(all)
}

/// PSS of doveauth in kibibytes.
async fn memory(lab: &Lab) -> anyhow::Result<u64> {
    let script =
        "awk '/^Pss:/ { print $2 }' /proc/$(systemctl show --value -p MainPID doveauth)/smaps_rollup";
    Ok(capture(lab, &["sh", "-c", script]).await?.trim().parse()?)
}

/// Results of a number of logins.
struct Round {
    took: Duration,
    each: Vec<Duration>,
    refused: usize,
    /// Milliseconds of CPU time per login, of doveauth and of Dovecot.
    cost: [f64; 2],
}

/// Logs in to all accounts, [`CLIENTS`] at once.
async fn round(lab: &Lab, accounts: &Arc<Vec<Account>>) -> anyhow::Result<Round> {
    let (before, begin) = (cpu(lab).await?, Instant::now());
    let next = Arc::new(AtomicUsize::new(0));
    let mut clients = JoinSet::new();
    for _ in 0..CLIENTS {
        let (accounts, next) = (Arc::clone(accounts), Arc::clone(&next));
        clients.spawn(async move {
            let (mut each, mut refused) = (Vec::new(), 0);
            while let Some(account) = accounts.get(next.fetch_add(1, Ordering::Relaxed)) {
                match login(account, &account.password).await? {
                    (Status::Ok, took) => each.push(took),
                    _ => refused += 1,
                }
            }
            anyhow::Ok((each, refused))
        });
    }
    let (mut each, mut refused) = (Vec::new(), 0);
    while let Some(client) = clients.join_next().await {
        let (more, failed) = client??;
        each.extend(more);
        refused += failed;
    }
    let (took, after) = (begin.elapsed(), cpu(lab).await?);
    let count = u32::try_from(accounts.len().max(1))?;
    let mut cost = [0.0; 2];
    for ((cost, before), after) in cost.iter_mut().zip(before).zip(after) {
        *cost = (after.saturating_sub(before) / count).as_secs_f64() * 1000.0;
    }
    Ok(Round {
        took,
        each,
        refused,
        cost,
    })
}

/// Logs in on a new connection and closes it. Returns the result, and how long the login took after the connection was
/// established.
async fn login(account: &Account, password: &str) -> anyhow::Result<(Status, Duration)> {
    let mut imap = account.peer.imap().await?;
    let begin = Instant::now();
    let status = imap.login(&account.address, password).await?.status;
    Ok((status, begin.elapsed()))
}

/// What each client of a flood does repeatedly.
#[derive(Clone, Copy)]
enum Flood {
    /// Signs up with a new address.
    SignUps,
    /// Logs in to an existing account with a wrong password.
    Guesses,
}

/// Durations of logins to existing accounts, one after the other, while others flood the relay; and how many logins of
/// the flood succeed and fail.
async fn under(
    flood: Flood,
    clients: usize,
    seconds: u64,
    peer: &Peer,
    accounts: &Arc<Vec<Account>>,
) -> anyhow::Result<(Vec<Duration>, usize, usize)> {
    let stop = CancellationToken::new();
    let (let_in, sent_away) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let mut flooding = JoinSet::new();
    for number in 0..clients {
        let (stop, peer, accounts) = (stop.clone(), peer.clone(), Arc::clone(accounts));
        let (let_in, sent_away) = (Arc::clone(&let_in), Arc::clone(&sent_away));
        flooding.spawn(async move {
            let mut turn = number;
            while !stop.is_cancelled() {
                let ended = match flood {
                    Flood::SignUps => {
                        let new = Account::random(&peer);
                        login(&new, &new.password).await
                    }
                    Flood::Guesses => match accounts.get(turn % accounts.len().max(1)) {
                        Some(account) => login(account, &random_password()).await,
                        None => return,
                    },
                };
                turn += clients;
                // The relay may also close connections of a flood.
                let counter = if ended.is_ok_and(|(status, _)| status == Status::Ok) {
                    &let_in
                } else {
                    &sent_away
                };
                counter.fetch_add(1, Ordering::Relaxed);
            }
        });
    }
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut each = Vec::new();
    for account in accounts.iter().cycle() {
        if Instant::now() >= end {
            break;
        }
        let (status, took) = login(account, &account.password).await?;
        ensure!(
            status == Status::Ok,
            "a login to an existing account failed during the flood"
        );
        each.push(took);
    }
    stop.cancel();
    while let Some(client) = flooding.join_next().await {
        client?;
    }
    Ok((
        each,
        let_in.load(Ordering::Relaxed),
        sent_away.load(Ordering::Relaxed),
    ))
}

async fn measure(lab: &Lab, progress: &Progress, arguments: &Logins) -> anyhow::Result<Report> {
    let peer = Peer::of(lab.topology(), RELAY)?;
    let accounts: Arc<Vec<Account>> =
        Arc::new((0..arguments.accounts).map(|_| Account::random(&peer)).collect());
    progress.say("measuring logins");
    let created = round(lab, &accounts).await?;
    ensure!(created.refused == 0, "{} sign-ups failed", created.refused);
    let remembered = round(lab, &accounts).await?;
    // After a restart, doveauth remembers no login and hashes every password.
    capture(lab, &["systemctl", "restart", "doveauth"]).await?;
    let hashed = round(lab, &accounts).await?;
    let sign_ups = under(Flood::SignUps, CLIENTS, arguments.seconds, &peer, &accounts).await?;
    let guesses = under(Flood::Guesses, GUESSING, arguments.seconds, &peer, &accounts).await?;
    let idle = memory(lab).await?;

    let mut report = Report::new("Login");
    report.line(format_args!(
        "{:<22}{:>10}{:>10}{:>10}{:>22}{:>22}",
        "", "per s", "p50 ms", "p99 ms", "doveauth CPU ms each", "Dovecot CPU ms each"
    ));
    for (name, round, wanted) in [
        ("sign-ups", &created, Some(SIGN_UPS)),
        ("logins, remembered", &remembered, Some(LOGINS)),
        ("logins, hashed", &hashed, None),
    ] {
        let summary = Summary::of(round.each.iter().copied()).context("no login")?;
        let rate = round.each.len() as f64 / round.took.as_secs_f64();
        report.line(format_args!(
            "{name:<22}{rate:>10.0}{:>10.1}{:>10.1}{:>22.2}{:>22.2}",
            milliseconds(summary.p50),
            milliseconds(summary.p99),
            round.cost[0],
            round.cost[1],
        ));
        if let Some(wanted) = wanted {
            report.target(Target::at_least(wanted, "per second", name, rate));
        }
    }
    report.target(Target::at_most(
        REMEMBERED,
        "%",
        "CPU time of doveauth for a remembered login, of that for a hashed one",
        100.0 * remembered.cost[0] / hashed.cost[0],
    ));
    for (name, (each, let_in, sent_away)) in [
        (format!("{CLIENTS} clients sign up"), sign_ups),
        (format!("{GUESSING} clients guess"), guesses),
    ] {
        let summary = Summary::of(each).context("no known login")?;
        report.line(format_args!(
            "login to an existing account while {name}: p50 {:.0} ms, p99 {:.0} ms; of the flood, {let_in} succeeded \
             and {sent_away} failed",
            milliseconds(summary.p50),
            milliseconds(summary.p99),
        ));
        report.target(Target::at_most(
            BOUND,
            "ms",
            format!("p99 of a login to an existing account while {name}"),
            milliseconds(summary.p99),
        ));
    }
    report.target(Target::at_most(
        IDLE_KIB,
        "KiB",
        "doveauth afterwards",
        idle as f64,
    ));
    Ok(report)
}
