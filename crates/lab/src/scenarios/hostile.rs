//! Messages made to cost as much as possible: mail of others arrives all the same.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::task::JoinSet;

use super::Context;
use crate::client::outside::{DOMAIN, Signing, deliver, signed, signed_as};
use crate::client::smtp::Reply;
use crate::client::{Account, pgp};

const RELAY: &str = "a";
/// Good messages whose time is taken, one after the other.
const GOOD: usize = 8;
/// How much longer good mail may take while the machine is busy with hostile mail, beside twice its time.
const ANYHOW: Duration = Duration::from_secs(3);
/// Connections of those whose keys are never answered, and messages on each.
const TARPIT_SENDERS: usize = 40;
const TARPIT_MESSAGES: usize = 3;
/// A zone that never answers.
const TARPIT: &str = "tarpit.test";
/// Sooner than this a message without a place to wait is sent back.
const EARLY: Duration = Duration::from_secs(5);

/// Reply to a message, and the time from its end to the reply.
type Answer = (Reply, Duration);

/// The time that an encrypted message from outside takes, connection included.
async fn good(receiver: &Account) -> anyhow::Result<Duration> {
    let from = format!("someone@{DOMAIN}");
    let message = signed(&pgp::encrypted(&from, 2000), Signing::Good)?;
    let begin = Instant::now();
    deliver(&receiver.peer, &from, &receiver.address, &message)
        .await?
        .expect(250)
        .context("good mail beside hostile mail")?;
    Ok(begin.elapsed())
}

/// The longest time that one of several good messages takes.
async fn longest(receiver: &Account) -> anyhow::Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..GOOD {
        longest = longest.max(good(receiver).await?);
    }
    Ok(longest)
}

/// Sends with a key in a zone that never answers.
async fn tarpit(receiver: Account, domain: String) -> anyhow::Result<Answer> {
    let from = format!("someone@{domain}");
    let message = signed_as(&pgp::encrypted(&from, 2000), &domain, "mail")?;
    let begin = Instant::now();
    let reply = deliver(&receiver.peer, &from, &receiver.address, &message).await?;
    Ok((reply, begin.elapsed()))
}

/// Keys that name servers never answer for.
pub(super) async fn tarpits(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    context.machines()?.publish(TARPIT, "").await?;
    let receiver = context.account(RELAY).await?;
    let calm = longest(&receiver).await?;
    let mut senders = JoinSet::new();
    for sender in 0..TARPIT_SENDERS {
        let receiver = receiver.clone();
        senders.spawn(async move {
            let mut answers = Vec::new();
            for number in 0..TARPIT_MESSAGES {
                let domain = format!("t{sender}-{number}.{TARPIT}");
                answers.push(tarpit(receiver.clone(), domain).await?);
            }
            anyhow::Ok(answers)
        });
    }
    let beside = longest(&receiver).await?;
    let mut early = 0;
    while let Some(answers) = senders.join_next().await {
        for (reply, took) in answers?? {
            reply.expect_line("451 4.7.5 DKIM key lookup failed, try again later")?;
            early += usize::from(took < EARLY);
        }
    }
    let all = TARPIT_SENDERS * TARPIT_MESSAGES;
    println!("    {early} of {all} sent back early; good mail: {calm:?} before, {beside:?} beside them");
    ensure!(early * 4 >= all * 3, "only {early} of {all} were sent back early");
    ensure!(
        beside < calm * 2 + ANYHOW,
        "good mail takes {beside:?} beside keys that are never answered, and {calm:?} without"
    );
    Ok(())
}
