//! Messages that the relay rejects.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::client::message::Message;
use crate::client::pgp;

/// The reply to a message that is not encrypted.
pub const ENCRYPTION_NEEDED: &str = "523 Encryption Needed: Invalid Unencrypted Mail";
/// Messages that an account may send at once (`messages.burst`).
const BURST: usize = 10;
/// Time within which the relay accepts a message.
const PROMPT: Duration = Duration::from_secs(10);

pub(super) async fn cleartext_submitted(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("b").await?);
    let (from, to) = (&sender.address, &receiver.address);
    let message = Message::cleartext(from, to, "hello", "Nobody shall read this.").bytes();
    let mut smtp = sender.smtp().await?;
    smtp.send(from, &[to], &message)
        .await?
        .expect_line(ENCRYPTION_NEEDED)?;
    // Neither the armor nor the content type alone makes a message count as encrypted.
    let shell = Message::new(
        from,
        &format!("<{to}>"),
        "[...]",
        "multipart/encrypted; protocol=\"application/pgp-encrypted\"; boundary=\"x\"",
        "--x\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n\r\n--x--\r\n".to_owned(),
    );
    let mut smtp = sender.smtp().await?;
    smtp.send(from, &[to], &shell.bytes())
        .await?
        .expect_line(ENCRYPTION_NEEDED)
}

pub(super) async fn forged_from(context: &Context) -> anyhow::Result<()> {
    let (sender, other) = (context.account("a").await?, context.account("a").await?);
    let message = pgp::encrypted(&other.address, 1000).bytes();
    let mut smtp = sender.smtp().await?;
    let reply = smtp.send(&sender.address, &[&other.address], &message).await?;
    reply.expect_line(&format!(
        "500 Invalid FROM <{}> for <{}>",
        other.address, sender.address
    ))
}

pub(super) async fn foreign_envelope(context: &Context) -> anyhow::Result<()> {
    let (sender, other) = (context.account("a").await?, context.account("a").await?);
    let message = pgp::encrypted(&other.address, 1000).bytes();
    let mut smtp = sender.smtp().await?;
    let reply = smtp.send(&other.address, &[&sender.address], &message).await?;
    reply.expect_start("553 5.7.1 ")
}

/// The relay enforces the limit at the first RCPT, before the client sends the message; a message counts once,
/// whatever its number of recipients.
pub(super) async fn rate_limit(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("a").await?);
    let mut smtp = sender.smtp().await?;
    let (from, to) = (&*sender.address, &*receiver.address);
    let message = pgp::encrypted(from, 1000).bytes();
    let refusal = format!("450 4.7.1: Too much mail from {from}, try again in ");
    for number in 1..=BURST {
        let reply = smtp.send(from, &[to, from], &message).await?;
        ensure!(
            reply.code == 250,
            "message {number} of {BURST} in a burst: {reply}"
        );
    }
    // The allowance grows every second, so the first rejection may come some messages later on a slow machine.
    for _ in 0..BURST {
        smtp.command(&format!("MAIL FROM:<{from}> SIZE=30000000"))
            .await?
            .expect(250)?;
        let reply = smtp.command(&format!("RCPT TO:<{to}>")).await?;
        if reply.code == 250 {
            smtp.command("RSET").await?.expect(250)?;
            continue;
        }
        reply.expect_start(&refusal)?;
        let again = smtp.command(&format!("RCPT TO:<{from}>")).await?;
        again.expect_start(&refusal)?;
        let data = smtp.command("DATA").await?;
        ensure!(!data.is_positive(), "the relay would accept a message: {data}");
        // This session and all others still work.
        smtp.command("RSET").await?.expect(250)?;
        let message = pgp::encrypted(to, 1000);
        receiver.submit(from, &message).await?.expect(250)?;
        return Ok(());
    }
    anyhow::bail!("the relay accepted {} messages at once", 2 * BURST)
}

/// Accounts with sessions that stall in the middle of a message, and sessions of each account: together more than the
/// filter serves.
const SLOW: (usize, usize) = (12, 10);

/// Senders with a bad connection do not prevent others from sending.
pub(super) async fn slow_senders(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("a").await?);
    let mut slow = Vec::new();
    for _ in 0..SLOW.0 {
        let account = context.account("a").await?;
        for _ in 0..SLOW.1 {
            let mut smtp = account.smtp().await?;
            let from = &account.address;
            smtp.command(&format!("MAIL FROM:<{from}>")).await?.expect(250)?;
            smtp.command(&format!("RCPT TO:<{}>", receiver.address))
                .await?
                .expect(250)?;
            smtp.command("DATA").await?.expect(354)?;
            smtp.write(format!("From: <{from}>\r\n").as_bytes()).await?;
            slow.push(smtp);
        }
    }
    let message = pgp::encrypted(&sender.address, 1000);
    tokio::time::timeout(PROMPT, sender.submit(&receiver.address, &message))
        .await
        .context("a message waits for slow senders")??
        .expect(250)?;
    drop(slow);
    Ok(())
}
