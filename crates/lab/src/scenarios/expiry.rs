//! What runs by the clock: removal of old messages and inactive accounts, and the account counts.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::client::Account;

const RELAY: &str = "a";
/// How long a log line may take to appear.
const LOGGED: Duration = Duration::from_secs(10);
/// Where the account counts are.
const COUNTS: &str = "/var/lib/chatmail-metrics/metrics";

fn home(account: &Account) -> String {
    format!("/home/vmail/mail/{}/{}", account.peer.domain, account.address)
}

/// A message in an account, changed this many days ago.
async fn message(context: &Context, account: &Account, days: u32) -> anyhow::Result<String> {
    let file = format!("{}/cur/1.M{days}P1.lab,S=6,W=7:2,S", home(account));
    let script = format!(
        "mkdir -p \"${{0%/*}}\"; echo a: b >\"$0\"; touch -d '{days} days ago' \"$0\"; chown -R vmail:vmail \"${{0%/*}}\""
    );
    context.run(RELAY, &["bash", "-ec", &script, &file]).await?;
    Ok(file)
}

async fn exists(context: &Context, path: &str) -> anyhow::Result<bool> {
    let test = context.machines()?.exec(RELAY, &["test", "-e", path]).await?;
    Ok(test.status.success())
}

pub(super) async fn removal(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines()?;
    let (kept, inactive) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let (old, young) = (
        message(context, &kept, 21).await?,
        message(context, &kept, 19).await?,
    );
    let password = format!("{}/password", home(&inactive));
    context
        .run(RELAY, &["touch", "-d", "91 days ago", &password])
        .await?;

    let start = lab.cursor(RELAY).await?;
    context
        .run(RELAY, &["systemctl", "start", "chatmail-expire.service"])
        .await?;
    let line = lab
        .follow(RELAY, Some("chatmail-expire"), &start, "Removed ", LOGGED)
        .await?;
    ensure!(
        line.starts_with("Removed 1 out of ")
            && line.contains(" mailboxes and 1 out of ")
            && line.contains(" files in existing mailboxes in "),
        "the summary is: {line}"
    );
    ensure!(!exists(context, &old).await?, "the old message is still there");
    ensure!(exists(context, &young).await?, "the young message is gone");
    ensure!(
        !exists(context, &home(&inactive)).await?,
        "the inactive account is still there"
    );
    kept.imap().await.context("the account in use")?;
    Ok(())
}

pub(super) async fn counts(context: &Context) -> anyhow::Result<()> {
    context.account(RELAY).await?;
    context.run(RELAY, &["rm", "-f", COUNTS]).await?;
    context
        .run(RELAY, &["systemctl", "start", "chatmail-metrics.service"])
        .await?;
    let counts = context.run(RELAY, &["cat", COUNTS]).await?;
    let domain = context.peer(RELAY)?.domain;
    let script = "ls -d \"/home/vmail/mail/$0/\"*/password | wc -l";
    let accounts = context.run(RELAY, &["bash", "-c", script, &domain]).await?;
    let line = format!("accounts {}", accounts.trim());
    ensure!(
        counts.lines().any(|known| known == line),
        "no `{line}` in:\n{counts}"
    );
    Ok(())
}
