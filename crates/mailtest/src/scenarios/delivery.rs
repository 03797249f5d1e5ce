//! Which addresses and messages a relay accepts, and what it discloses about its addresses.

use std::time::Duration;

use anyhow::ensure;

use super::Context;
use crate::client::message::header;
use crate::client::{arrival, outside, pgp};

const WITHIN: Duration = Duration::from_secs(60);
/// Larger than `messages.maxSize` after armoring.
const TOO_LARGE: usize = 53_000_000;
/// Maximum line length in RFC 5322, without the line break.
const MAX_LINE: usize = 998;

pub(super) async fn address_extension(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("b").await?);
    let (mut imap, _) = receiver.inbox().await?;
    let extended = receiver.address.replace('@', "+tag@");
    let message = pgp::encrypted(&sender.address, 2000);
    sender.submit(&extended, &message).await?.expect(250)?;
    arrival(&mut imap, message.id(), WITHIN).await?;
    Ok(())
}

/// Submits messages with a line of the maximum length, and one byte longer.
pub(super) async fn long_lines(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account("a").await?, context.account("b").await?);
    let (mut imap, _) = receiver.inbox().await?;
    for length in [MAX_LINE, MAX_LINE + 1, 1500] {
        let name = "References: ";
        let value = format!("<{}>", "x".repeat(length - name.len() - 2));
        let message = pgp::encrypted(&sender.address, 2000)
            .with("References", &value)
            .with("X-Blanks", "trailing \t ")
            .with("X-Folded", "one\r\n\t two");
        let mut smtp = sender.smtp().await?;
        let reply = smtp
            .send(&sender.address, &[&receiver.address], &message.bytes())
            .await?;
        if length > MAX_LINE {
            reply.expect_line("550 5.6.0 Line longer than 998 bytes in message")?;
            continue;
        }
        reply.expect(250)?;
        // Relay b has verified the signature.
        let stored = arrival(&mut imap, message.id(), WITHIN).await?;
        ensure!(header(&stored, "References") == [value], "the field was changed");
    }
    Ok(())
}

pub(super) async fn too_large(context: &Context) -> anyhow::Result<()> {
    let sender = context.account("a").await?;
    let message = pgp::encrypted(&sender.address, TOO_LARGE).bytes();
    let mut smtp = sender.smtp().await?;
    smtp.send(&sender.address, &[&sender.address], &message)
        .await?
        .expect_start("552 ")?;
    // A client that declares the size is rejected before it sends the message.
    let peer = context.peer("b")?;
    let mut smtp = peer.exchange(outside::DOMAIN).await?;
    let announced = format!("MAIL FROM:<someone@{}> SIZE={}", outside::DOMAIN, message.len());
    smtp.command(&announced).await?.expect_start("552 5.3.4 ")
}

pub(super) async fn vrfy(context: &Context) -> anyhow::Result<()> {
    let account = context.account("a").await?;
    let domain = &account.peer.domain;
    let mut smtp = account.peer.exchange(outside::DOMAIN).await?;
    for address in [&account.address, &format!("nobody-here@{domain}")] {
        let reply = smtp.command(&format!("VRFY {address}")).await?;
        reply.expect_line(&format!("252 2.0.0 {address}"))?;
    }
    Ok(())
}
