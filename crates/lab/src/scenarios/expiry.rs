//! Scheduled tasks: removal of old messages and inactive accounts, and the account counts.

use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mailtest::client::Account;

use super::Context;
use crate::harness::mailboxes;

const RELAY: &str = "a";
/// Time within which a log line appears.
const LOGGED: Duration = Duration::from_secs(10);
/// File with the account counts.
const COUNTS: &str = "/var/lib/chatmail-metrics/metrics";

/// A file of an account: its folder, days since its last change, size in bytes, whether expiry removes it.
type Case = (&'static str, u32, u32, bool);

/// Files around both limits, 20 days and 7 days for more than 200,000 bytes, in INBOX and another folder. For large
/// messages that no client has seen, and for leftovers of a delivery, only the limit of 20 days applies.
const CASES: [Case; 12] = [
    ("cur", 21, 6, true),
    ("cur", 19, 6, false),
    ("cur", 8, 200_001, true),
    ("cur", 8, 200_000, false),
    ("cur", 6, 200_001, false),
    ("new", 21, 6, true),
    ("new", 8, 200_001, false),
    ("tmp", 21, 6, true),
    ("tmp", 19, 6, false),
    (".Sent/cur", 21, 6, true),
    (".Sent/cur", 8, 200_001, true),
    (".Sent/cur", 19, 6, false),
];

/// An active account with a file for each case, an inactive account, and a folder that is not an account.
struct Store {
    kept: Account,
    inactive: Account,
    empty: String,
    files: Vec<(String, bool)>,
}

impl Store {
    async fn fill(context: &Context) -> anyhow::Result<Self> {
        // First remove what other scenarios left behind, so that the summaries do not count it.
        context
            .run(RELAY, &["systemctl", "start", "chatmail-expire.service"])
            .await?;
        let (kept, inactive) = (context.account(RELAY).await?, context.account(RELAY).await?);
        let mut files = Vec::new();
        for (folder, days, bytes, goes) in CASES {
            let file = format!("{}/{folder}/1.M{days}P{bytes}.lab", mailboxes::of(&kept));
            let script = "install -d -o vmail -g vmail \"${0%/*}\"; head -c \"$1\" /dev/zero >\"$0\"; \
                touch -d \"$2 days ago\" \"$0\"; chown vmail:vmail \"$0\"";
            let (days, bytes) = (days.to_string(), bytes.to_string());
            context
                .run(RELAY, &["bash", "-ec", script, &file, &bytes, &days])
                .await?;
            files.push((file, goes));
        }
        let password = format!("{}/password", mailboxes::of(&inactive));
        context
            .run(RELAY, &["touch", "-d", "91 days ago", &password])
            .await?;
        let empty = mailboxes::of(&Account::random(&kept.peer));
        context
            .run(RELAY, &["install", "-d", "-o", "vmail", "-g", "vmail", &empty])
            .await?;
        Ok(Self {
            kept,
            inactive,
            empty,
            files,
        })
    }

    /// Fails unless all files exist; if `removed`, except for those that expiry removes.
    async fn check(&self, context: &Context, removed: bool) -> anyhow::Result<()> {
        let folders = [(mailboxes::of(&self.inactive), true), (self.empty.clone(), true)];
        for (path, goes) in self.files.iter().chain(&folders) {
            let test = context.machines().exec(RELAY, &["test", "-e", path]).await?;
            let there = test.status.success();
            ensure!(
                there != (*goes && removed),
                "{path} is {}",
                if there { "still there" } else { "gone" }
            );
        }
        self.kept.imap().await.context("the account in use")?;
        Ok(())
    }

    /// Fails unless the summary of a run counts exactly these removals.
    fn check_summary(&self, line: &str) -> anyhow::Result<()> {
        let numbers: Vec<&str> = line
            .split(' ')
            .filter(|word| word.starts_with(|first: char| first.is_ascii_digit()))
            .collect();
        let &[_, mailboxes, _, files, seconds] = numbers.as_slice() else {
            bail!("the summary is: {line}");
        };
        let goes = self.files.iter().filter(|(_, goes)| *goes).count();
        let wanted = format!(
            "Removed 2 out of {mailboxes} mailboxes and {goes} out of {files} files in existing mailboxes in {seconds} seconds"
        );
        ensure!(
            line == wanted && seconds.split_once('.').is_some_and(|(_, cents)| cents.len() == 2),
            "the summary is: {line}"
        );
        Ok(())
    }
}

pub(super) async fn removal(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let store = Store::fill(context).await?;
    let start = lab.cursor(RELAY).await?;
    context
        .run(RELAY, &["systemctl", "start", "chatmail-expire.service"])
        .await?;
    let line = lab
        .follow(RELAY, Some("chatmail-expire"), &start, "Removed ", LOGGED)
        .await?;
    store.check_summary(&line)?;
    store.check(context, true).await
}

/// The command with which operators preview the next run.
pub(super) async fn dry_run(context: &Context) -> anyhow::Result<()> {
    let store = Store::fill(context).await?;
    let printed = context
        .run(RELAY, &["runuser", "-u", "vmail", "--", "chatmail-expire"])
        .await?;
    store.check_summary(printed.trim_end())?;
    store.check(context, false).await?;
    // Remove the old files before the next scenario.
    context
        .run(RELAY, &["systemctl", "start", "chatmail-expire.service"])
        .await?;
    Ok(())
}

/// systemd starts the tasks at the documented times, and catches up after the machine was off.
pub(super) async fn clocks(context: &Context) -> anyhow::Result<()> {
    for (timer, time) in [("chatmail-expire", "00:02:00"), ("chatmail-fsreport", "08:02:00")] {
        let unit = format!("{timer}.timer");
        let show = [
            "systemctl",
            "show",
            "--property=ActiveState,Persistent,TimersCalendar,Unit",
            &unit,
        ];
        let shown = context.run(RELAY, &show).await?;
        for wanted in [
            "ActiveState=active".to_owned(),
            "Persistent=yes".to_owned(),
            format!("Unit={timer}.service"),
        ] {
            ensure!(shown.lines().any(|line| line == wanted), "no {wanted}: {shown}");
        }
        let calendar = format!("OnCalendar=*-*-* {time} ;");
        ensure!(shown.contains(&calendar), "{unit} is not at {time}: {shown}");
        let next = ["systemctl", "show", "--property=NextElapseUSecRealtime", &unit];
        let next = context.run(RELAY, &next).await?;
        ensure!(next.contains(&format!(" {time} ")), "{unit} is next at: {next}");
    }
    Ok(())
}

pub(super) async fn counts(context: &Context) -> anyhow::Result<()> {
    context.account(RELAY).await?;
    context.run(RELAY, &["rm", "-f", COUNTS]).await?;
    context
        .run(RELAY, &["systemctl", "start", "chatmail-metrics.service"])
        .await?;
    let counts = context.run(RELAY, &["cat", COUNTS]).await?;
    let folder = mailboxes::of_domain(&context.peer(RELAY)?.mail_domain);
    let script = "ls -d \"$0/\"*/password | wc -l";
    let accounts = context.run(RELAY, &["bash", "-c", script, &folder]).await?;
    let line = format!("accounts {}", accounts.trim());
    ensure!(
        counts.lines().any(|known| known == line),
        "no `{line}` in:\n{counts}"
    );
    Ok(())
}
