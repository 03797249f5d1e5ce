//! A message reaches a mailbox directly or through Postfix's queue, and the recipient cannot tell which.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::Message;
use mailtest::client::outside::{DOMAIN, Signing, signed};
use mailtest::client::{Account, arrival, pgp};

use super::Context;

const WITHIN: Duration = Duration::from_secs(60);
/// The reply to a message whose recipients have it.
const DELIVERED: &str = "250 2.0.0 Ok: delivered";
/// The reply to a message in the queue.
const QUEUED: &str = "250 2.0.0 Ok: queued as ";

/// The filters leave a quoted local part to Postfix.
fn through_the_queue(account: &Account) -> anyhow::Result<String> {
    let (localpart, domain) = account.address.split_once('@').context("an address without @")?;
    Ok(format!("\"{localpart}\"@{domain}"))
}

/// The message as its recipient gets it, without the field that names the recipient.
async fn stored(account: &Account, message: &Message) -> anyhow::Result<String> {
    let (mut imap, _) = account.inbox().await?;
    let text = String::from_utf8(arrival(&mut imap, message.id(), WITHIN).await?)?;
    ensure!(
        text.contains("\r\nDelivered-To: ") || text.starts_with("Delivered-To: "),
        "no Delivered-To: {text}"
    );
    let lines = text
        .split_inclusive("\r\n")
        .filter(|line| !line.starts_with("Delivered-To: "));
    Ok(lines.collect())
}

pub(super) async fn same_message(context: &Context) -> anyhow::Result<()> {
    let relay = "a";
    let (direct, queued) = (context.account(relay).await?, context.account(relay).await?);
    let ways = [
        (direct.address.clone(), DELIVERED),
        (through_the_queue(&queued)?, QUEUED),
    ];
    let with_everything = |from: &str| {
        pgp::encrypted(from, 2000)
            .with("Subject", "The real\r\n subject")
            .with("Received", "from x by y;\r\n\tMon, 1 Jan 2024 00:00:00 +0000")
            .with("User-Agent", "Phone/1.0")
            .with("x-mailer", "Phone Mail")
            .with("X-Originating-IP", "192.0.2.7")
            .with("TLS-Required", "No")
            .with("BCC", "somebody@example.org")
            .with("Return-Path", "<somebody@example.org>")
            .with("Content-Length", "1")
            .with("X-Folded", "a\r\n b\r\n\tc")
    };
    let sender = context.account(relay).await?;
    let submitted = with_everything(&sender.address);
    for (recipient, expected) in &ways {
        let reply = sender.submit(recipient, &submitted).await?.to_string();
        ensure!(reply.starts_with(expected), "to {recipient}: {reply}");
    }
    same(&direct, &queued, &submitted).await?;

    context.publish_outside().await?;
    let from = format!("someone@{DOMAIN}");
    let arriving = with_everything(&from);
    let bytes = signed(&arriving, Signing::Good)?;
    for (recipient, expected) in &ways {
        let mut smtp = direct.peer.exchange(DOMAIN).await?;
        let reply = smtp.send(&from, &[recipient], &bytes).await?.to_string();
        ensure!(
            reply.starts_with(expected),
            "from outside to {recipient}: {reply}"
        );
    }
    same(&direct, &queued, &arriving).await
}

async fn same(direct: &Account, queued: &Account, message: &Message) -> anyhow::Result<()> {
    let (direct, queued) = (stored(direct, message).await?, stored(queued, message).await?);
    ensure!(
        direct == queued,
        "directly delivered:\n{direct}\nthrough the queue:\n{queued}"
    );
    Ok(())
}
