//! What an account, a client and a message cost beside more and more accounts.

use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, ensure};
use mailtest::client::{Account, Peer};

use super::cost;
use super::idle::{sessions, wait};
use super::load::Volume;
use super::relays::without_limits;
use super::report::Report;
use super::setup;
use super::stats::{Summary, milliseconds};
use super::throughput::measure as throughput;
use crate::machine::{Lab, Progress};

const RELAY: &str = "a";
const KIBIBYTE: f64 = 1024.0;
/// Services that look at every account once a day.
const DAILY: [&str; 2] = ["chatmail-expire", "chatmail-fsreport"];

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Scale {
    /// Accounts on the relay; can be given several times, in ascending order
    #[arg(long, value_name = "N", default_values_t = [1_000, 10_000, 100_000])]
    accounts: Vec<usize>,
    /// Accounts that log in, and clients in IDLE
    #[arg(long, value_name = "N", default_value_t = 100)]
    clients: usize,
    #[command(flatten)]
    volume: Volume,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures relay a with each number of accounts.
pub(super) async fn run(arguments: &Scale) -> anyhow::Result<Report> {
    arguments.volume.check()?;
    ensure!(arguments.clients > 0, "--clients must be 1 or more");
    for accounts in &arguments.accounts {
        ensure!(
            *accounts >= 2 * arguments.clients,
            "--accounts must be at least twice as many as --clients"
        );
    }
    ensure!(
        arguments.accounts.is_sorted(),
        "--accounts must be in ascending order"
    );
    without_limits(arguments.keep, RELAY, async |lab, progress| {
        let generated = Generated::new(lab).await?;
        let measured = measure_all(lab, progress, arguments, &generated).await;
        tokio::task::spawn_blocking(move || generated.remove()).await??;
        measured
    })
    .await
}

async fn measure_all(
    lab: &Lab,
    progress: &Progress,
    arguments: &Scale,
    generated: &Generated,
) -> anyhow::Result<Report> {
    let load = arguments.volume.load();
    let mut report = Report::new("Scale");
    report.line(format_args!(
        "{} accounts log in, then as many clients wait in IDLE; {} messages of {} senders",
        arguments.clients, load.messages, load.senders
    ));
    let mut made = 0;
    for &accounts in &arguments.accounts {
        progress.say(format_args!("generating {accounts} accounts"));
        let (copying, range) = (generated.clone(), made..accounts);
        let disk = tokio::task::spawn_blocking(move || copying.copy(range)).await??;
        report.line(format_args!("\n{accounts} accounts"));
        report.line(format_args!(
            "{:44}{:>10.1} KiB of disk, {:.0} inodes",
            "an account that nobody uses",
            disk.bytes as f64 / KIBIBYTE / (accounts - made).max(1) as f64,
            disk.inodes as f64 / (accounts - made).max(1) as f64
        ));
        made = accounts;
        progress.say(format_args!("measuring {accounts} accounts"));
        measure(lab, arguments, generated, accounts, &mut report).await?;
    }
    Ok(report)
}

async fn measure(
    lab: &Lab,
    arguments: &Scale,
    generated: &Generated,
    accounts: usize,
    report: &mut Report,
) -> anyhow::Result<()> {
    // Nothing of the previous round remains: logins in doveauth, and processes for sessions in Dovecot.
    setup::run(lab, RELAY, "systemctl restart doveauth dovecot").await?;
    // Spread over all, with nothing of them in Dovecot's or the kernel's caches.
    let step = accounts / arguments.clients;
    let clients: Vec<Account> = (0..arguments.clients)
        .map(|client| generated.account(client * step))
        .collect();
    for what in ["a first login, hashed", "a login with a known password"] {
        let work = async {
            let mut took = Vec::new();
            for client in &clients {
                let start = Instant::now();
                client.imap().await?;
                took.push(start.elapsed());
            }
            Ok(took)
        };
        let (took, cost) = cost::during(lab, RELAY, work).await?;
        let took = Summary::of(took).context("no login")?;
        report.line(format_args!(
            "{what:44}{:>10.1} ms of CPU time; p50 {:.1} ms, p99 {:.1} ms",
            cost::each(cost.total().cpu, clients.len()),
            milliseconds(took.p50),
            milliseconds(took.p99)
        ));
    }
    let without = sessions(lab).await?;
    let mut waiting = Vec::new();
    for client in &clients {
        waiting.push(client.inbox().await?.0);
    }
    let (_, waiting) = wait(waiting).await?;
    let awake = sessions(lab).await?;
    drop(waiting);
    report.line(format_args!(
        "{:44}{:>10.0} KiB PSS of Dovecot",
        "a client in IDLE, before hibernation",
        awake.memory.saturating_sub(without.memory) as f64 / KIBIBYTE / clients.len() as f64
    ));
    let load = arguments.volume.load();
    let run = throughput(lab, load).await?;
    ensure!(run.outcome.lost == 0, "{} messages were lost", run.outcome.lost);
    report.line(format_args!(
        "{:44}{:>10.2} ms of CPU time; {:.0} per second, {} deferred",
        "a message within the relay",
        run.cpu_each(),
        run.outcome.fetched_per_second(),
        run.deferred
    ));
    for unit in DAILY {
        let start = Instant::now();
        setup::run(lab, RELAY, &format!("systemctl start {unit}.service")).await?;
        report.line(format_args!("{unit:44}{:>10.2} s", start.elapsed().as_secs_f64()));
    }
    let start = Instant::now();
    // It exits with 1 if something needs attention, like a full disk.
    setup::run(lab, RELAY, "chatmail status || [ $? -eq 1 ]").await?;
    report.line(format_args!(
        "{:44}{:>10.2} s",
        "chatmail status",
        start.elapsed().as_secs_f64()
    ));
    let units = lab.usage(RELAY)?;
    let memory: u64 = units.values().map(|usage| usage.memory).sum();
    report.line(format_args!(
        "{:44}{:>10.1} MiB, of which doveauth {:.1}",
        "all daemons afterwards",
        memory as f64 / KIBIBYTE / KIBIBYTE,
        units
            .get("doveauth")
            .map_or(0.0, |usage| usage.memory as f64 / KIBIBYTE / KIBIBYTE)
    ));
    Ok(())
}

/// Space on a file system.
struct Space {
    bytes: u64,
    inodes: u64,
}

/// Copies of an account that a client has created: the same files, password and owner under other names.
#[derive(Clone)]
struct Generated {
    template: Account,
    /// The folder of all accounts, on this machine.
    store: PathBuf,
}

impl Generated {
    async fn new(lab: &Lab) -> anyhow::Result<Self> {
        let template = Account::random(&Peer::of(lab.topology(), RELAY)?);
        template.inbox().await?;
        let mailboxes = format!("home/vmail/mail/{}", template.peer.mail_domain);
        Ok(Self {
            template,
            store: lab.root(RELAY).join(mailboxes),
        })
    }

    fn account(&self, number: usize) -> Account {
        Account {
            address: format!("{}@{}", Self::name(number), self.template.peer.mail_domain),
            ..self.template.clone()
        }
    }

    /// Local part of a copy.
    fn name(number: usize) -> String {
        format!("s{number:08}")
    }

    fn folder(&self, number: usize) -> PathBuf {
        self.store.join(self.account(number).address)
    }

    /// Makes copies; returns the space that they need.
    fn copy(&self, numbers: std::ops::Range<usize>) -> anyhow::Result<Space> {
        let template = self.store.join(&self.template.address);
        let mut space = Space { bytes: 0, inodes: 0 };
        for number in numbers {
            copy_tree(&template, &self.folder(number), &mut space)
                .with_context(|| format!("cannot generate account {number}"))?;
        }
        Ok(space)
    }

    /// Removes all copies, also those of an interrupted run.
    fn remove(&self) -> anyhow::Result<()> {
        for entry in fs::read_dir(&self.store)? {
            let name = entry?.file_name();
            let number = name
                .to_str()
                .and_then(|name| name.strip_prefix('s')?.get(..8)?.parse().ok());
            if number.is_some_and(|number| self.folder(number).ends_with(&name)) {
                fs::remove_dir_all(self.store.join(&name))?;
            }
        }
        Ok(())
    }
}

/// Copies a folder with owners, modes and times.
fn copy_tree(from: &Path, to: &Path, space: &mut Space) -> anyhow::Result<()> {
    let kept = fs::symlink_metadata(from)?;
    if kept.is_dir() {
        fs::create_dir(to)?;
        for entry in fs::read_dir(from)? {
            let name = entry?.file_name();
            copy_tree(&from.join(&name), &to.join(&name), space)?;
        }
    } else {
        fs::copy(from, to)?;
        let times = fs::FileTimes::new()
            .set_modified(kept.modified()?)
            .set_accessed(kept.accessed()?);
        fs::File::open(to)?.set_times(times)?;
    }
    chown(to, Some(kept.uid()), Some(kept.gid()))?;
    fs::set_permissions(to, fs::Permissions::from_mode(kept.mode() & 0o7777))?;
    let made = fs::symlink_metadata(to)?;
    space.bytes += made.blocks() * 512;
    space.inodes += 1;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_keep_contents_and_modes() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        fs::create_dir_all(from.join("cur")).unwrap();
        fs::write(from.join("password"), "x").unwrap();
        fs::set_permissions(from.join("password"), fs::Permissions::from_mode(0o600)).unwrap();
        let mut space = Space { bytes: 0, inodes: 0 };
        copy_tree(&from, &to, &mut space).unwrap();
        assert_eq!(space.inodes, 3);
        assert_eq!(fs::read(to.join("password")).unwrap(), b"x");
        let mode = fs::metadata(to.join("password")).unwrap().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
}
