//! Header fields that reveal the sender's device, network or subject do not reach the recipient.

use std::time::Duration;

use anyhow::ensure;

use super::Context;
use crate::client::message::header;
use crate::client::{arrival, pgp};

pub(super) async fn cleanup(context: &Context) -> anyhow::Result<()> {
    for (from, to) in [("a", "a"), ("a", "b")] {
        let (sender, receiver) = (context.account(from).await?, context.account(to).await?);
        let message = pgp::encrypted(&sender.address, 2000)
            .with("Subject", "The real subject")
            .with(
                "Received",
                "from [192.0.2.7] by home.example; Mon, 1 Jan 2024 00:00:00 +0000",
            )
            .with("User-Agent", "Phone/1.0")
            .with("X-Mailer", "Phone Mail")
            .with("X-Originating-IP", "192.0.2.7")
            .with("TLS-Required", "No");
        let (mut imap, _) = receiver.inbox().await?;
        let mut smtp = sender.smtp().await?;
        smtp.send(&sender.address, &[&receiver.address], &message.bytes())
            .await?
            .expect(250)?;
        let stored = arrival(&mut imap, message.id(), Duration::from_secs(60)).await?;
        let gone = [
            "Received",
            "User-Agent",
            "X-Mailer",
            "X-Originating-IP",
            "TLS-Required",
            "DKIM-Signature",
            "Authentication-Results",
        ];
        for name in gone {
            let values = header(&stored, name);
            ensure!(
                values.is_empty(),
                "from {from} to {to}, {name} was not removed: {values:?}"
            );
        }
        let subject = header(&stored, "Subject");
        ensure!(
            subject == ["[...]"],
            "from {from} to {to}, the subject is {subject:?}"
        );
    }
    Ok(())
}
