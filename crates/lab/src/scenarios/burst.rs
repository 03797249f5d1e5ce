//! Many messages for one account at once: the relay delivers each of them immediately and exactly once.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use chatmail_core::postqueue::Message;
use mailtest::client::imap::{Imap, Value};
use mailtest::client::{Account, pgp};
use mailtest::until;
use tokio::sync::Barrier;
use tokio::task::JoinSet;

use super::Context;

const RELAY: &str = "a";
/// Number of senders, and of messages that each sends at once, within the rate limit of an account.
const SENDERS: usize = 8;
const EACH: usize = 8;
/// Maximum number of recipients of a message.
const RECIPIENTS: usize = 1000;
/// Timeout. A deferred message stays in the queue for at least a minute, so polling the queue does not miss it.
const DELIVERED: Duration = Duration::from_secs(150);

/// Waits until the queue is empty; fails as soon as a delivery is deferred.
async fn nothing_deferred(context: &Context) -> anyhow::Result<()> {
    let look = || async {
        let queue = context.machines().queue(RELAY).await?;
        if let Some(reason) = queue.iter().find_map(Message::delay_reason) {
            bail!("a delivery was deferred: {reason}");
        }
        Ok(queue.is_empty().then_some(()))
    };
    until(DELIVERED, look)
        .await
        .context("the queue does not become empty")
}

/// Sends a message over a connection that was opened before; returns its Message-ID.
async fn send(sender: Account, to: String, all_ready: Arc<Barrier>) -> anyhow::Result<String> {
    let message = pgp::encrypted(&sender.address, 2000);
    let mut smtp = sender.smtp().await?;
    all_ready.wait().await;
    smtp.send(&sender.address, &[&to], &message.bytes())
        .await?
        .expect(250)?;
    Ok(message.id().to_owned())
}

/// Returns the number of copies of each of these messages in the folder.
async fn copies(imap: &mut Imap, id: &str) -> anyhow::Result<usize> {
    Ok(imap.search(&format!("HEADER Message-ID {id}")).await?.len())
}

/// Many users write to one user at the same time.
pub(super) async fn messages(context: &Context) -> anyhow::Result<()> {
    let receiver = context.account(RELAY).await?;
    let all_ready = Arc::new(Barrier::new(SENDERS * EACH));
    let mut sending = JoinSet::new();
    for _ in 0..SENDERS {
        let sender = context.account(RELAY).await?;
        for _ in 0..EACH {
            sending.spawn(send(
                sender.clone(),
                receiver.address.clone(),
                Arc::clone(&all_ready),
            ));
        }
    }
    let mut sent = Vec::new();
    while let Some(id) = sending.join_next().await {
        sent.push(id??);
    }
    nothing_deferred(context).await?;
    let (mut imap, exists) = receiver.inbox().await?;
    ensure!(
        usize::try_from(exists)? == sent.len(),
        "{exists} of {} messages arrived",
        sent.len()
    );
    for id in &sent {
        let copies = copies(&mut imap, id).await?;
        ensure!(copies == 1, "{copies} copies of a message arrived");
    }
    Ok(())
}

/// Sends one message to the maximum number of addresses of one account.
pub(super) async fn address_extensions(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let message = pgp::encrypted(&sender.address, 2000);
    let addresses: BTreeSet<String> = (0..RECIPIENTS)
        .map(|number| receiver.address.replace('@', &format!("+{number}@")))
        .collect();
    let to: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let mut smtp = sender.smtp().await?;
    smtp.send(&sender.address, &to, &message.bytes())
        .await?
        .expect(250)?;
    nothing_deferred(context).await?;
    let (mut imap, exists) = receiver.inbox().await?;
    ensure!(
        usize::try_from(exists)? == RECIPIENTS,
        "{exists} of {RECIPIENTS} copies arrived"
    );
    let fetched = imap
        .command("FETCH 1:* (BODY.PEEK[HEADER.FIELDS (Delivered-To)])")
        .await?
        .ok()?;
    let mut delivered = BTreeSet::new();
    for values in fetched.data("FETCH") {
        let items = values.first().and_then(Value::as_list).unwrap_or_default();
        let header = items.iter().find_map(|item| match item {
            Value::Text(text) => Some(String::from_utf8_lossy(text).into_owned()),
            _ => None,
        });
        let header = header.context("a message has no header")?;
        let (_, address) = header.split_once(':').context("no Delivered-To")?;
        delivered.insert(address.trim().trim_matches(['<', '>']).to_owned());
    }
    ensure!(
        delivered == addresses,
        "copies for {} of {RECIPIENTS} addresses arrived",
        delivered.len()
    );
    Ok(())
}
