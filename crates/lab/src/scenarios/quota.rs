//! A mailbox that fills up: Dovecot requests cleanup, and the oldest messages are removed.

use std::time::{Duration, SystemTime};

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Value;
use mailtest::client::{Account, arrival, pgp};

use super::Context;
use crate::harness::mailboxes;

const RELAY: &str = "a";
const WITHIN: Duration = Duration::from_secs(30);
const HOUR: u64 = 60 * 60;
/// Size of the mailbox before the last message; Dovecot requests cleanup at 393,216,000 bytes.
const HELD: u64 = 392_400_000;
/// Size of the last message's cipher text; the whole message exceeds the threshold.
const LAST: usize = 1_000_000;

/// Writes a message of this size into an account, with this delivery time in the past.
async fn place(context: &Context, home: &str, hours: u64, bytes: u64) -> anyhow::Result<String> {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
    let second = now.as_secs() - hours * HOUR;
    let file = format!("{home}/cur/{second}.M1P1.lab,S={bytes},W={bytes}:2,S");
    let script = format!(
        "mkdir -p \"${{0%/*}}\"; truncate -s {bytes} \"$0\"; touch -d @{second} \"$0\"; \
         chown -R vmail:vmail \"${{0%/*}}\"; rm -f \"{home}/maildirsize\""
    );
    context.run(RELAY, &["bash", "-ec", &script, &file]).await?;
    Ok(file)
}

/// Returns the size of a mailbox according to Dovecot, and its limit, in KiB.
async fn quota(account: &Account) -> anyhow::Result<(u64, u64)> {
    let answer = account
        .imap()
        .await?
        .command("GETQUOTAROOT \"INBOX\"")
        .await?
        .ok()?;
    let list = answer
        .data("QUOTA")
        .find_map(|values| values.get(1)?.as_list())
        .context("no QUOTA")?;
    let number = |index: usize| list.get(index).and_then(Value::as_text);
    let (used, limit) = (number(1).context("no usage")?, number(2).context("no limit")?);
    Ok((used.parse()?, limit.parse()?))
}

/// Fills an account with old messages, and with new ones up to the threshold; the first `gone` messages are removed.
async fn fills(context: &Context, old: &[(u64, u64)], gone: usize) -> anyhow::Result<()> {
    let lab = context.machines();
    let (sender, account) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let home = mailboxes::of(&account);
    let mut files = Vec::new();
    for (hours, bytes) in old {
        files.push(place(context, &home, *hours, *bytes).await?);
    }
    let young = HELD - old.iter().map(|(_, bytes)| bytes).sum::<u64>();
    for hours in 1..=10 {
        files.push(place(context, &home, hours, young / 10).await?);
    }
    let (used, limit) = quota(&account).await?;
    ensure!(
        used * 4 < limit * 3 && used * 100 > limit * 74,
        "{used} of {limit} KiB"
    );

    let start = lab.cursor(RELAY).await?;
    let message = pgp::encrypted(&sender.address, LAST);
    let mut smtp = sender.smtp().await?;
    smtp.send(&sender.address, &[&account.address], &message.bytes())
        .await?
        .expect(250)?;
    let want = format!("quota-expire: removed {gone} message(s) from {}", account.address);
    lab.follow(RELAY, None, &start, &want, WITHIN).await?;
    let (mut imap, _) = account.inbox().await?;
    arrival(&mut imap, message.id(), WITHIN).await?;
    for (index, file) in files.iter().enumerate() {
        let there = lab.exec(RELAY, &["test", "-e", file]).await?.status.success();
        ensure!(there == (index >= gone), "{file} is there: {there}");
    }
    let (used, limit) = quota(&account).await?;
    ensure!(used * 4 < limit * 3, "{used} of {limit} KiB afterwards");
    Ok(())
}

pub(super) async fn oldest_go(context: &Context) -> anyhow::Result<()> {
    fills(context, &[(240, 30_000_000), (48, 30_000_000)], 1).await
}

pub(super) async fn last_day_stays(context: &Context) -> anyhow::Result<()> {
    fills(context, &[(240, 10_000_000), (25, 10_000_000)], 2).await
}
