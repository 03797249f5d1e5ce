//! Mail to domains that accept none, to servers without a valid certificate, and what a relay reveals about addresses.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::Message;
use mailtest::client::{Account, arrival, arrival_of, pgp};
use mailtest::until;

use super::Context;

const WITHIN: Duration = Duration::from_secs(30);

async fn send(sender: &Account, to: &str) -> anyhow::Result<Message> {
    let message = pgp::encrypted(&sender.address, 2000);
    sender.submit(to, &message).await?.expect(250)?;
    Ok(message)
}

pub(super) async fn undeliverable(context: &Context) -> anyhow::Result<()> {
    // RFC 7505: this domain accepts no mail.
    let null_mx = "null-mx.test";
    let zone = format!("{null_mx}. 60 IN A 198.18.25.1\n{null_mx}. 60 IN MX 0 .\n");
    context.machines().publish(null_mx, &zone).await?;
    let sender = context.account("a").await?;
    let (mut imap, _) = sender.inbox().await?;
    for (domain, status, reason) in [
        (null_mx, "5.1.10", "Recipient address has null MX"),
        (
            "no-such-domain.test",
            "5.1.2",
            "Domain no-such-domain.test does not exist",
        ),
    ] {
        let address = format!("somebody@{domain}");
        send(&sender, &address).await?;
        let criteria = format!("FROM MAILER-DAEMON BODY {address}");
        let report = arrival_of(&mut imap, &criteria, WITHIN).await?;
        let report = String::from_utf8_lossy(&report).into_owned();
        // Bounces fold the reason.
        let words = report.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(
            report.contains(&format!("Status: {status}\r\n")) && words.contains(reason),
            "mail to {address} did not fail with {status}: {report}"
        );
    }
    Ok(())
}

/// Waits until Postfix defers a message to this address; returns the message and the reason.
pub(super) async fn deferred(
    context: &Context,
    relay: &str,
    address: &str,
) -> anyhow::Result<(String, String)> {
    let look = || async {
        for queued in context.machines().queue(relay).await? {
            let reason = queued
                .recipients
                .into_iter()
                .find(|one| one.address == address)
                .and_then(|one| one.delay_reason);
            if let Some(reason) = reason {
                return Ok(Some((queued.queue_id, reason)));
            }
        }
        Ok(None)
    };
    until(WITHIN, look)
        .await
        .with_context(|| format!("mail to {address} is not deferred"))
}

/// Checks that mail to this address is deferred because the server's certificate is not valid for its name.
async fn not_verified(context: &Context, recipient: &str) -> anyhow::Result<()> {
    let (queue_id, reason) = deferred(context, "a", recipient).await?;
    context.run("a", &["postsuper", "-d", &queue_id]).await?;
    ensure!(
        reason.contains("Server certificate not verified"),
        "mail to {recipient} is deferred for another reason: {reason}"
    );
    Ok(())
}

/// The MX of this domain is a relay whose certificate is for another name.
pub(super) async fn names_verified(context: &Context) -> anyhow::Result<()> {
    let imposter = "imposter.test";
    let address = context.topology.relay("c").context("no relay c")?.ipv4;
    let zone = format!("{imposter}. 60 IN A {address}\n{imposter}. 60 IN MX 10 {imposter}.\n");
    context.machines().publish(imposter, &zone).await?;
    let sender = context.account("a").await?;
    let recipient = format!("somebody@{imposter}");
    send(&sender, &recipient).await?;
    not_verified(context, &recipient).await?;
    // RFC 8689: a sender requests delivery without TLS, in a submitted message and in one of the host itself.
    let recipient = format!("wisher@{imposter}");
    let message = pgp::encrypted(&sender.address, 2000).with("TLS-Required", "No");
    sender.submit(&recipient, &message).await?.expect(250)?;
    not_verified(context, &recipient).await?;
    let recipient = format!("cron@{imposter}");
    let script = format!("printf 'TLS-Required: No\\n\\nfull\\n' | sendmail {recipient}");
    context.run("a", &["sh", "-c", &script]).await?;
    not_verified(context, &recipient).await?;
    // Under its own name, the same relay's certificate is valid, so the reason above is the name.
    let receiver = context.account("c").await?;
    let (mut imap, _) = receiver.inbox().await?;
    let message = send(&sender, &receiver.address).await?;
    arrival(&mut imap, message.id(), WITHIN).await?;
    Ok(())
}
