//! Checks of the host: units, timers, clock, resources, limits, files and configurations.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_core::limits::Resources;
use nix::sys::statvfs::statvfs;
use nix::unistd::{Uid, User};
use time::OffsetDateTime;
use tokio::process::Command;
use tokio::task::spawn_blocking;

use super::inputs::Inputs;
use super::verdict::{Finding, Verdict, failed};
use crate::status::system::{self, Unit};

/// Timers of the relay, and the seconds within which each has to run.
const TIMERS: [(&str, i64); 4] = [
    ("chatmail-expire.timer", 2 * DAY),
    ("chatmail-fsreport.timer", 2 * DAY),
    ("chatmail-fsreport-textfile.timer", 3 * HOUR),
    ("chatmail-metrics.timer", HOUR),
];
const HOUR: i64 = 60 * 60;
const DAY: i64 = 24 * HOUR;

/// Services that hold one file for each connection.
const CONNECTED: [&str; 5] = [
    "dovecot.service",
    "postfix.service",
    "nginx.service",
    "filtermail-incoming.service",
    "filtermail-outgoing.service",
];
/// Minimum number of open files of these services.
const MIN_FILES: u64 = 16384;
/// Minimum number of inotify instances of a user. Each open session of a mailbox needs one.
const MIN_INSTANCES: u64 = 1024;
/// Minimum number of inotify watches of a user.
const MIN_WATCHES: u64 = 8192;
const INOTIFY: &str = "/proc/sys/fs/inotify";

/// Maximum number of accounts whose password files are looked at.
const MAX_ACCOUNTS: usize = 10_000;

async fn output(program: &str, arguments: &[&str]) -> anyhow::Result<Output> {
    Command::new(program)
        .args(arguments)
        .kill_on_drop(true)
        .output()
        .await
        .with_context(|| format!("cannot run {program}"))
}

async fn stdout(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = output(program, arguments).await?;
    anyhow::ensure!(output.status.success(), "{program} failed with {}", output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

pub(super) async fn units(_: &Inputs) -> anyhow::Result<Verdict> {
    let units = spawn_blocking(system::units).await??;
    let arguments = ["list-units", "--state=failed", "--plain", "--no-legend", "--full"];
    let failed = stdout("systemctl", &arguments).await?;
    Ok(judge_units(&units, &failed))
}

fn judge_units(units: &[Unit], failed_units: &str) -> Verdict {
    let mut bad: BTreeMap<&str, &str> = failed_units
        .lines()
        .filter_map(|line| line.split_whitespace().next())
        .map(|name| (name, "failed"))
        .collect();
    for unit in units.iter().filter(|unit| !unit.is_well()) {
        bad.insert(&unit.name, &unit.state);
    }
    let found = bad
        .into_iter()
        .map(|(name, state)| {
            failed(
                format!("{name} is {state}"),
                format!("see `journalctl -u {name}`, then run `systemctl restart {name}`"),
            )
        })
        .collect();
    Verdict::of(found, || format!("{} units are well", units.len()))
}

/// A timer of the relay.
struct Timer {
    name: String,
    state: String,
    /// Unix time of the last run; 0 if there was none.
    last: i64,
}

pub(super) async fn timers(_: &Inputs) -> anyhow::Result<Verdict> {
    let mut arguments = vec!["show", "--property=Id,LoadState,ActiveState"];
    arguments.extend(TIMERS.map(|(name, _)| name));
    let states = stdout("systemctl", &arguments).await?;
    let runs = stdout("systemctl", &["list-timers", "--all", "--output=json"]).await?;
    let runs: Vec<serde_json::Value> =
        serde_json::from_str(&runs).context("cannot parse the list of timers")?;
    let started = [
        "show",
        "--timestamp=unix",
        "--property=UserspaceTimestamp",
        "--value",
    ];
    let started = stdout("systemctl", &started).await?;
    let started = started.trim().trim_start_matches('@').parse().unwrap_or(0);
    let timers = blocks(&states)
        .filter(|timer| timer.get("LoadState") == Some(&"loaded"))
        .filter_map(|timer| {
            let name = *timer.get("Id")?;
            let run = runs
                .iter()
                .find(|run| run.get("unit").is_some_and(|unit| unit == name));
            let last = run.and_then(|run| run.get("last")?.as_i64()).unwrap_or(0);
            Some(Timer {
                name: name.to_owned(),
                state: (*timer.get("ActiveState")?).to_owned(),
                last: last / 1_000_000,
            })
        })
        .collect::<Vec<_>>();
    Ok(judge_timers(
        &timers,
        started,
        OffsetDateTime::now_utc().unix_timestamp(),
    ))
}

/// The properties of each unit.
fn blocks(text: &str) -> impl Iterator<Item = BTreeMap<&str, &str>> {
    text.split("\n\n")
        .map(|block| block.lines().filter_map(|line| line.split_once('=')).collect())
}

fn judge_timers(timers: &[Timer], started: i64, now: i64) -> Verdict {
    let mut found = Vec::new();
    for timer in timers {
        let within = TIMERS.iter().find(|(name, _)| *name == timer.name);
        let within = within.map_or(2 * DAY, |(_, within)| *within);
        let age = now - timer.last.max(started);
        if timer.state != "active" {
            found.push(failed(
                format!("{} is {}", timer.name, timer.state),
                format!("run `systemctl start {}`", timer.name),
            ));
        } else if age > within {
            found.push(failed(
                format!("{} has not run for {} hour(s)", timer.name, age / HOUR),
                format!("see `systemctl status {}` and the clock", timer.name),
            ));
        }
    }
    Verdict::of(found, || format!("{} timers run on time", timers.len()))
}

pub(super) async fn clock(_: &Inputs) -> anyhow::Result<Verdict> {
    let arguments = ["show", "--property=NTPSynchronized", "--value"];
    let told = output("timedatectl", &arguments).await;
    let told = told.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
    Ok(judge_clock(&told.unwrap_or_default()))
}

fn judge_clock(told: &str) -> Verdict {
    match told {
        "yes" => Verdict::Well("synchronized".to_owned()),
        "no" => Verdict::Found(vec![failed(
            "the clock is not synchronized, so signatures and certificates may look invalid",
            "see `timedatectl status`, and set services.timesyncd.enable",
        )]),
        _ => Verdict::Skipped("timedatectl does not know whether the clock is synchronized".to_owned()),
    }
}

/// Inodes of a file system: free ones, and all.
type Inodes = (u64, u64);

pub(super) async fn resources(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let directory = inputs.settings.mailboxes.directory.clone();
    let (resources, inodes) = spawn_blocking(move || {
        let inodes = statvfs(&directory).map(|stat| (stat.files_available(), stat.files()));
        (Resources::read(&directory), inodes)
    })
    .await?;
    let inodes = inodes.context("cannot look at the file system of the mail store")?;
    Ok(judge_resources(&inputs.settings, &resources, inodes))
}

fn judge_resources(settings: &Settings, resources: &Resources, (free, all): Inodes) -> Verdict {
    let mut found = Vec::new();
    if let Some(exhausted) = resources.exhausted(&settings.accounts) {
        found.push(failed(
            exhausted.to_string(),
            "free resources, or rent a larger machine",
        ));
    }
    // File systems without a fixed number of inodes report 0.
    if all > 0 && free < all / 20 {
        found.push(failed(
            format!("only {free} of {all} inodes are free on the file system of the mail store"),
            "remove files, or move the mail store to a file system with more inodes",
        ));
    }
    Verdict::of(found, || {
        let disk = resources.disk_free.map_or_else(String::new, |bytes| {
            format!(", {} of disk space", crate::account::size(bytes))
        });
        let memory = resources
            .memory_available
            .map_or_else(|| "enough".to_owned(), crate::account::size);
        format!("{memory} of memory{disk} free")
    })
}

/// Limits of the kernel and of services.
struct Limits {
    /// Open files of the whole host, and their maximum.
    files: (u64, u64),
    /// `LimitNOFILE` of services.
    services: Vec<(String, u64)>,
    instances: u64,
    watches: u64,
    /// inotify instances that the owner of the mail store uses.
    used: u64,
}

pub(super) async fn limits(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let mut arguments = vec!["show", "--property=Id,LoadState,LimitNOFILE"];
    arguments.extend(CONNECTED);
    let text = stdout("systemctl", &arguments).await?;
    let services = blocks(&text)
        .filter(|service| service.get("LoadState") == Some(&"loaded"))
        .filter_map(|service| {
            let limit = service.get("LimitNOFILE")?;
            // `infinity` does not parse.
            Some((
                (*service.get("Id")?).to_owned(),
                limit.parse().unwrap_or(u64::MAX),
            ))
        })
        .collect();
    let directory = inputs.settings.mailboxes.directory.clone();
    let (files, instances, watches, used) = spawn_blocking(move || -> anyhow::Result<_> {
        let text = read("/proc/sys/fs/file-nr")?;
        let mut numbers = text.split_whitespace().map(|number| number.parse().unwrap_or(0));
        let used = numbers.next().unwrap_or(0);
        let files = (used, numbers.nth(1).unwrap_or(0));
        let number = |name: &str| -> anyhow::Result<u64> {
            let text = read(&format!("{INOTIFY}/{name}"))?;
            text.trim()
                .parse()
                .with_context(|| format!("{INOTIFY}/{name} is no number"))
        };
        let owner = fs::metadata(&directory)
            .context("cannot access the mail store")?
            .uid();
        Ok((
            files,
            number("max_user_instances")?,
            number("max_user_watches")?,
            instances_of(owner),
        ))
    })
    .await??;
    Ok(judge_limits(&Limits {
        files,
        services,
        instances,
        watches,
        used,
    }))
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {path}"))
}

/// Number of inotify instances that the processes of a user have open.
fn instances_of(user: u32) -> u64 {
    let mut count = 0;
    let processes = fs::read_dir("/proc").into_iter().flatten().filter_map(Result::ok);
    for process in processes.filter(|process| process.metadata().is_ok_and(|meta| meta.uid() == user)) {
        let files = fs::read_dir(process.path().join("fd"));
        for file in files.into_iter().flatten().filter_map(Result::ok) {
            let target = fs::read_link(file.path());
            count += u64::from(target.is_ok_and(|target| target.as_os_str() == "anon_inode:inotify"));
        }
    }
    count
}

fn judge_limits(limits: &Limits) -> Verdict {
    let mut found = Vec::new();
    let (used, max) = limits.files;
    if used > max / 10 * 9 {
        found.push(failed(
            format!("{used} of {max} possible files are open"),
            "raise the sysctl fs.file-max",
        ));
    }
    for (name, limit) in limits.services.iter().filter(|(_, limit)| *limit < MIN_FILES) {
        found.push(failed(
            format!("{name} can open only {limit} files"),
            format!("set LimitNOFILE of this unit to {MIN_FILES} or more"),
        ));
    }
    for (name, value, least) in [
        ("fs.inotify.max_user_instances", limits.instances, MIN_INSTANCES),
        ("fs.inotify.max_user_watches", limits.watches, MIN_WATCHES),
    ] {
        if value < least {
            found.push(failed(
                format!("{name} is {value}, too few for many open mailboxes"),
                format!("set boot.kernel.sysctl.\"{name}\" to {least} or more"),
            ));
        }
    }
    if limits.used > limits.instances / 10 * 8 {
        found.push(failed(
            format!(
                "{} of {} inotify instances are in use",
                limits.used, limits.instances
            ),
            "raise boot.kernel.sysctl.\"fs.inotify.max_user_instances\"",
        ));
    }
    Verdict::of(found, || {
        format!("{used} files open, {} inotify instances in use", limits.used)
    })
}

/// Who may read a file.
#[derive(Debug, Clone, Copy)]
enum Readers {
    /// Its owner and its group.
    Group,
    /// Only its owner.
    Owner,
}

/// A file that holds a secret or mail, and what `stat` says about it.
struct Secret {
    path: PathBuf,
    readers: Readers,
    /// User that has to own it.
    owner: Option<&'static str>,
    facts: Result<Facts, String>,
}

struct Facts {
    mode: u32,
    owner: String,
    empty: bool,
}

pub(super) async fn files(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let settings = inputs.settings.clone();
    let named = inputs.is_named();
    let secrets = spawn_blocking(move || secrets(&settings, named)).await?;
    Ok(judge_files(&secrets))
}

fn secrets(settings: &Settings, named: bool) -> Vec<Secret> {
    let store = &settings.mailboxes.directory;
    let secret = |path: &Path, readers, owner| Secret {
        path: path.to_owned(),
        readers,
        owner,
        facts: look(path),
    };
    let mut all = vec![secret(store, Readers::Owner, Some("vmail"))];
    let registration = &settings.registration.directory;
    all.push(secret(registration, Readers::Group, Some("vmail")));
    if named {
        all.push(secret(&settings.dkim.key_file, Readers::Group, Some("opendkim")));
    }
    if let Some(turn) = &settings.turn {
        all.push(secret(&turn.secret_file, Readers::Group, None));
    }
    let accounts = fs::read_dir(store).into_iter().flatten().filter_map(Result::ok);
    for account in accounts.take(MAX_ACCOUNTS) {
        let path = account.path().join("password");
        // An account can be removed at any time.
        if path.exists() {
            all.push(secret(&path, Readers::Owner, Some("vmail")));
        }
    }
    all
}

fn look(path: &Path) -> Result<Facts, String> {
    let meta = fs::metadata(path).map_err(|error| error.to_string())?;
    let user = User::from_uid(Uid::from_raw(meta.uid())).ok().flatten();
    Ok(Facts {
        mode: meta.mode() & 0o7777,
        owner: user.map_or_else(|| meta.uid().to_string(), |user| user.name),
        empty: meta.is_file() && meta.len() == 0,
    })
}

fn judge_files(secrets: &[Secret]) -> Verdict {
    let mut found: Vec<Finding> = Vec::new();
    for secret in secrets {
        let path = secret.path.display();
        let facts = match &secret.facts {
            Ok(facts) => facts,
            Err(error) => {
                found.push(failed(
                    format!("{path} cannot be read ({error})"),
                    "restore it, or restart the unit that creates it",
                ));
                continue;
            }
        };
        let forbidden = match secret.readers {
            Readers::Group => 0o027,
            Readers::Owner => 0o077,
        };
        if facts.mode & forbidden != 0 {
            let mode = facts.mode & !forbidden;
            found.push(failed(
                format!("other users have access to {path} (mode {:04o})", facts.mode),
                format!("run `chmod {mode:04o} {path}`"),
            ));
        }
        if let Some(owner) = secret.owner.filter(|owner| *owner != facts.owner) {
            found.push(failed(
                format!("{path} belongs to {}", facts.owner),
                format!("run `chown {owner} {path}`"),
            ));
        }
        if facts.empty {
            found.push(failed(
                format!("{path} is empty"),
                "restore it, or remove it and restart the unit that creates it",
            ));
        }
    }
    Verdict::of(found, || format!("{} secrets are private", secrets.len()))
}

pub(super) async fn postfix(_: &Inputs) -> anyhow::Result<Verdict> {
    let output = output("postfix", &["check"]).await?;
    Ok(judge_configuration("postfix check", &output))
}

pub(super) async fn dovecot(_: &Inputs) -> anyhow::Result<Verdict> {
    let output = output("doveconf", &["-n"]).await?;
    Ok(judge_configuration("doveconf -n", &output))
}

/// The programs also print warnings that do not matter.
fn judge_configuration(command: &str, output: &Output) -> Verdict {
    let said = String::from_utf8_lossy(&output.stderr);
    let lower = |line: &&str| {
        let line = line.to_ascii_lowercase();
        ["fatal:", "error:", "panic:"]
            .iter()
            .any(|word| line.contains(word))
    };
    let worst = said.lines().find(lower);
    if output.status.success() && worst.is_none() {
        return Verdict::Well(format!("`{command}` finds no error"));
    }
    let reason = worst.or_else(|| said.lines().last()).unwrap_or("no message");
    Verdict::Found(vec![failed(
        format!("`{command}` reports: {reason}"),
        "correct the option of services.chatmail or of the daemon, and deploy again",
    )])
}

#[cfg(test)]
mod tests;
