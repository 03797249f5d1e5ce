//! Counters of mtail.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::Message;
use mailtest::client::{Account, arrival, pgp};
use mailtest::until;

use super::{Context, kill};

const RELAY: &str = "a";
/// Time within which mail arrives and mtail processes a line.
const WITHIN: Duration = Duration::from_secs(30);
/// Counters that the scenario increases.
const COUNTERS: [&str; 3] = [
    "created_accounts",
    "delivered_mail",
    "rejected_unencrypted_mail_count",
];

/// Ways to end the processes of a unit: arguments of `systemctl`, and a description.
const ENDINGS: [&[&str]; 4] = [
    &["kill", "--kill-whom=main", "--signal=KILL"],
    &["kill", "--kill-whom=all", "--signal=KILL"],
    &["restart"],
    &["stop"],
];
/// The unit.
const MTAIL: &str = "mtail.service";

async fn read(context: &Context) -> anyhow::Result<[u64; 3]> {
    let host = context.topology.relay(RELAY).context("no such relay")?.ipv4;
    let url = format!("http://{host}:3903/metrics");
    let metrics = context.run(RELAY, &["curl", "-sSf", &url]).await?;
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
    ensure!(refused.code == 523, "the reply to cleartext is: {refused}");

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

/// Delivers this many messages and waits until they arrive.
async fn deliver(context: &Context, receiver: &Account, messages: u64) -> anyhow::Result<()> {
    // A new sender each time, because of the rate limit.
    let sender = context.account(RELAY).await?;
    let mut smtp = sender.smtp().await?;
    let (mut imap, _) = receiver.inbox().await?;
    for _ in 0..messages {
        let message = pgp::encrypted(&sender.address, 1000);
        smtp.send(&sender.address, &[&receiver.address], &message.bytes())
            .await?
            .expect(250)?;
        arrival(&mut imap, message.id(), WITHIN).await?;
    }
    Ok(())
}

/// Waits until this process of mtail has counted this many deliveries, and fails if it counts more.
async fn delivered(context: &Context, wanted: u64) -> anyhow::Result<()> {
    let counted = || async {
        // mtail needs some time after its unit has started before it responds.
        let now = read(context).await.map_or(0, |[_, delivered, _]| delivered);
        Ok((now >= wanted).then_some(now))
    };
    let counted = until(WITHIN, counted)
        .await
        .with_context(|| format!("mtail does not count {wanted} deliveries"))?;
    ensure!(
        counted == wanted,
        "{counted} deliveries are counted instead of {wanted}"
    );
    Ok(())
}

/// mtail and the process that feeds it end in every way during delivery: each new process counts every line logged
/// since the end of the previous one exactly once.
pub(super) async fn restarts(context: &Context) -> anyhow::Result<()> {
    let receiver = context.account(RELAY).await?;
    let [_, before, _] = read(context).await?;
    deliver(context, &receiver, 2).await?;
    delivered(context, before + 2).await?;
    for (messages, ending) in (3..).zip(ENDINGS) {
        let (process, _) = kill::state(context, RELAY, MTAIL).await?;
        let command = [&["systemctl"], ending, &[MTAIL]].concat();
        context.run(RELAY, &command).await?;
        deliver(context, &receiver, messages).await?;
        context.run(RELAY, &["systemctl", "start", MTAIL]).await?;
        let (other, _) = kill::state(context, RELAY, MTAIL).await?;
        ensure!(process != other, "mtail keeps running after {ending:?}");
        delivered(context, messages)
            .await
            .with_context(|| format!("after {ending:?}"))?;
        // Lines that are counted late or twice show up here.
        deliver(context, &receiver, 1).await?;
        delivered(context, messages + 1)
            .await
            .with_context(|| format!("some time after {ending:?}"))?;
    }
    Ok(())
}
