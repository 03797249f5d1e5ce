//! After machines restart, queued mail is delivered.

use std::time::Duration;

use anyhow::Context as _;
use mailtest::client::{arrival, pgp};
use mailtest::until;

use super::{Context, hurried};

/// Time within which mail is deferred, and within which it arrives.
const MAIL: Duration = Duration::from_secs(90);

/// Relay c is down while relay b accepts mail for it, and then the whole machine of relay b restarts.
pub(super) async fn keeps_the_queue(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let (sender, receiver) = (context.account("b").await?, context.account("c").await?);
    let message = pgp::encrypted(&sender.address, 20_000);
    lab.power_off("c").await?;
    let queued = async {
        sender.submit(&receiver.address, &message).await?.expect(250)?;
        let waits = || async {
            let queue = context.run("b", &["postqueue", "-j"]).await?;
            let deferred = |line: &str| line.contains("\"deferred\"") && line.contains(&receiver.address);
            Ok(queue.lines().any(deferred).then_some(()))
        };
        until(MAIL, waits).await.context("the message is not deferred")?;
        lab.power_off("b").await?;
        lab.power_on("b").await
    };
    let queued = queued.await;
    lab.power_on("c").await?;
    queued?;
    let (mut imap, _) = receiver.inbox().await?;
    hurried(context, &["b"], arrival(&mut imap, message.id(), MAIL)).await?;
    sender
        .imap()
        .await
        .context("the sender's account after the restart")?;
    context.queues_empty(&["b"], MAIL).await
}
