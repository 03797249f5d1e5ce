//! Optional features of Dovecot for sessions and stored messages.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::{Account, arrival, pgp};
use mailtest::until;

use super::Context;
use crate::harness::mailboxes;

const WITHIN: Duration = Duration::from_secs(30);
/// The relay with COMPRESS, session logs, and hibernation of idle sessions after a second.
const SPECIAL: &str = "c";
const RELAYS: [&str; 3] = ["a", "b", SPECIAL];

pub(super) async fn compress_where_wanted(context: &Context) -> anyhow::Result<()> {
    for relay in RELAYS {
        let account = Account::random(&context.peer(relay)?);
        let mut imap = account.peer.imap().await?;
        let login = imap.login(&account.address, &account.password).await?.ok()?;
        let offered = imap.capabilities(&login).await?;
        let compress = offered.iter().any(|name| name == "COMPRESS=DEFLATE");
        ensure!(compress == (relay == SPECIAL), "relay {relay} offers {offered:?}");
    }
    Ok(())
}

/// Sends a message; returns its Message-ID.
async fn send(sender: &Account, receiver: &Account) -> anyhow::Result<String> {
    let message = pgp::encrypted(&sender.address, 100_000);
    let mut smtp = sender.smtp().await?;
    smtp.send(&sender.address, &[&receiver.address], &message.bytes())
        .await?
        .expect(250)?;
    Ok(message.id().to_owned())
}

pub(super) async fn stored_compressed(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("a").await?);
    let (mut imap, _) = receiver.inbox().await?;
    let id = send(&sender, &receiver).await?;
    let read = arrival(&mut imap, &id, WITHIN).await?;
    let home = mailboxes::of(&receiver);
    // The name of a stored file contains the size of its message: as stored (`S=`), and with CRLF line endings, as read
    // (`W=`).
    let script =
        "cd \"$0\"; f=$(find new cur -type f); echo \"$f\"; stat -c %s \"$f\"; gzip -dc \"$f\" | wc -c";
    let told = context.run("a", &["bash", "-ec", script, &home]).await?;
    let [name, on_disk, unpacked] = told.lines().collect::<Vec<_>>()[..] else {
        anyhow::bail!("not one message in {home}: {told}");
    };
    let (on_disk, unpacked): (usize, usize) = (on_disk.parse()?, unpacked.parse()?);
    let sizes = format!(",S={unpacked},W={}:", read.len());
    ensure!(
        name.contains(&sizes) && on_disk < unpacked,
        "{on_disk} bytes on disk, {unpacked} unpacked, {} read: {name}",
        read.len()
    );
    Ok(())
}

/// Returns Dovecot's count of an event.
async fn counted(context: &Context, event: &str) -> anyhow::Result<u64> {
    let url = "http://127.0.0.1:3904/metrics";
    let metrics = context.run(SPECIAL, &["curl", "-sSf", url]).await?;
    let name = format!("dovecot_{event}_total ");
    let count = metrics.lines().find_map(|line| line.strip_prefix(&name));
    let count = count.with_context(|| format!("no metric {event}"))?;
    count
        .parse()
        .with_context(|| format!("the count of {event} is {count:?}"))
}

async fn counted_above(context: &Context, event: &str, before: u64) -> anyhow::Result<()> {
    let above = || async { Ok((counted(context, event).await? > before).then_some(())) };
    until(WITHIN, above)
        .await
        .with_context(|| format!("{event} stays at {before}"))
}

pub(super) async fn hibernation(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account(SPECIAL).await?);
    let (mut imap, exists) = receiver.inbox().await?;
    let (slept, woken) = (
        counted(context, "imap_hibernated").await?,
        counted(context, "imap_unhibernated").await?,
    );
    let mut idle = imap.idle().await?;
    counted_above(context, "imap_hibernated", slept).await?;
    let id = send(&sender, &receiver).await?;
    idle.exists(exists + 1, WITHIN).await?;
    counted_above(context, "imap_unhibernated", woken).await?;
    idle.done().await?;
    arrival(&mut imap, &id, WITHIN).await?;
    Ok(())
}

pub(super) async fn recorded_where_wanted(context: &Context) -> anyhow::Result<()> {
    for relay in RELAYS {
        let account = context.account(relay).await?;
        let mark = format!("mark-{relay}-{}", mailtest::client::message::random_name(9));
        account
            .imap()
            .await?
            .command(&format!("CREATE \"{mark}\""))
            .await?
            .ok()?;
        let script = "grep -rl \"$0\" /var/lib/chatmail-rawlog | xargs -r stat -c '%U %a'";
        let records = context.run(relay, &["bash", "-c", script, &mark]).await?;
        let wanted = if relay == SPECIAL { "vmail 600" } else { "" };
        ensure!(
            records.lines().next().unwrap_or_default() == wanted,
            "records of relay {relay}: {records:?}"
        );
    }
    Ok(())
}
