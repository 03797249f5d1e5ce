//! Mail to a nonexistent address bounces.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::{header, random_name};
use mailtest::client::{arrival_of, pgp};

use super::Context;

/// Relay b accepts the message, and finds at delivery that the address does not exist. It signs the bounce, so relay a
/// accepts it although it is not encrypted.
pub(super) async fn unknown_user(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let sender = context.account("a").await?;
    let nobody = format!("{}@{}", random_name(9), context.peer("b")?.domain);
    let (at_a, at_b) = (lab.cursor("a").await?, lab.cursor("b").await?);
    let (mut imap, _) = sender.inbox().await?;
    let message = pgp::encrypted(&sender.address, 2000);
    let mut smtp = sender.smtp().await?;
    smtp.send(&sender.address, &[&nobody], &message.bytes())
        .await?
        .expect(250)?;

    let bounce = arrival_of(&mut imap, "FROM MAILER-DAEMON", Duration::from_secs(60)).await?;
    let kind = header(&bounce, "Content-Type").concat();
    ensure!(kind.starts_with("multipart/report"), "the bounce is {kind}");
    ensure!(
        !header(&bounce, "Auto-Submitted").is_empty(),
        "the bounce has no Auto-Submitted"
    );
    let text = String::from_utf8_lossy(&bounce).into_owned();
    ensure!(text.contains(&nobody), "the bounce does not name the address");

    let within = Duration::from_secs(10);
    let signed = format!(
        "DKIM-Signature field added (s=opendkim, d={})",
        context.peer("b")?.domain
    );
    lab.follow("b", Some("opendkim"), &at_b, &signed, within)
        .await
        .context("relay b does not log the signature of its bounce")?;
    let log = "Incoming: Filtering mailer-daemon message from";
    lab.follow("a", Some("filtermail-incoming"), &at_a, log, within)
        .await
        .context("relay a does not log that it accepts the bounce")?;
    Ok(())
}
