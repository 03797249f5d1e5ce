//! What mtail counts.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::{Context, until};
use crate::client::message::Message;
use crate::client::{arrival, pgp};

const RELAY: &str = "a";
/// How long mail may take, and a line to mtail.
const WITHIN: Duration = Duration::from_secs(30);
/// What the scenario makes go up.
const COUNTERS: [&str; 3] = [
    "created_accounts",
    "delivered_mail",
    "rejected_unencrypted_mail_count",
];

async fn read(context: &Context) -> anyhow::Result<[u64; 3]> {
    let url = "http://127.0.0.1:3903/metrics";
    let metrics = context.run(RELAY, &["curl", "-sSf", url]).await?;
    let mut values = [0; 3];
    for (value, name) in values.iter_mut().zip(COUNTERS) {
        let line = metrics
            .lines()
            .find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with('{')))
            .with_context(|| format!("no {name}"))?;
        *value = line.rsplit(' ').next().unwrap_or_default().parse()?;
    }
    Ok(values)
}

pub(super) async fn count(context: &Context) -> anyhow::Result<()> {
    let before = read(context).await?;
    let (sender, receiver) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let (from, to) = (&sender.address, &receiver.address);
    let message = pgp::encrypted(from, 1000);
    let mut smtp = sender.smtp().await?;
    smtp.send(from, &[to], &message.bytes()).await?.expect(250)?;
    let (mut imap, _) = receiver.inbox().await?;
    arrival(&mut imap, message.id(), WITHIN).await?;
    let cleartext = Message::cleartext(from, to, "hello", "Nobody shall read this.");
    let refused = smtp.send(from, &[to], &cleartext.bytes()).await?;
    ensure!(refused.code == 523, "cleartext was answered with: {refused}");

    let counted = || async {
        let now = read(context).await?;
        let [accounts, delivered, rejected] = [0, 1, 2].map(|index: usize| {
            let at = |values: &[u64; 3]| values.get(index).copied().unwrap_or_default();
            at(&now).saturating_sub(at(&before))
        });
        Ok((accounts >= 2 && delivered >= 1 && rejected >= 1).then_some(()))
    };
    until(WITHIN, counted)
        .await
        .with_context(|| format!("the counters were {before:?}"))
}
