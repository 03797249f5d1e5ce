//! Mail from outside is taken only with a signature of the domain that it claims to be from.

use std::time::Duration;

use anyhow::ensure;

use super::Context;
use crate::client::message::header;
use crate::client::outside::{DOMAIN, Signing, deliver, signed};
use crate::client::smtp::Reply;
use crate::client::{arrival, pgp};

/// Hands an encrypted message to relay a.
async fn hand_in(context: &Context, signing: Signing) -> anyhow::Result<Reply> {
    context.publish_outside().await?;
    let receiver = context.account("a").await?;
    let from = format!("someone@{DOMAIN}");
    let message = signed(&pgp::encrypted(&from, 2000), signing)?;
    deliver(&receiver.peer, &from, &receiver.address, &message).await
}

pub(super) async fn unsigned(context: &Context) -> anyhow::Result<()> {
    let reply = hand_in(context, Signing::None).await?;
    reply.expect_line("554 5.7.1 No valid DKIM signature found (No DKIM signature found)")
}

async fn badly_signed(context: &Context, signing: Signing) -> anyhow::Result<()> {
    let reply = hand_in(context, signing).await?;
    reply.expect_start("554 5.7.1 No valid DKIM signature found (")?;
    ensure!(
        reply.to_string().ends_with(')'),
        "the reason is not in parentheses: {reply}"
    );
    Ok(())
}

pub(super) async fn other_domain(context: &Context) -> anyhow::Result<()> {
    badly_signed(context, Signing::OtherDomain).await
}

pub(super) async fn wrong_key(context: &Context) -> anyhow::Result<()> {
    badly_signed(context, Signing::WrongKey).await
}

pub(super) async fn body_altered(context: &Context) -> anyhow::Result<()> {
    badly_signed(context, Signing::BodyAltered).await
}

pub(super) async fn delivered(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    // The third relay too: it has a certificate of a CA, which the sender checks.
    for relay in ["a", "c"] {
        let receiver = context.account(relay).await?;
        let from = format!("someone@{DOMAIN}");
        let message = pgp::encrypted(&from, 2000);
        let bytes = signed(&message, Signing::Good)?;
        deliver(&receiver.peer, &from, &receiver.address, &bytes)
            .await?
            .expect(250)?;
        let (mut imap, _) = receiver.inbox().await?;
        let stored = arrival(&mut imap, message.id(), Duration::from_secs(30)).await?;
        ensure!(
            header(&stored, "From") == [format!("<{from}>")],
            "the sender has changed"
        );
        ensure!(
            header(&stored, "DKIM-Signature").is_empty(),
            "the signature was stored"
        );
    }
    Ok(())
}
