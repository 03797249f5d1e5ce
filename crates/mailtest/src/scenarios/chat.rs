//! Two Delta Chat users write to each other.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::client::deltachat::Pair;
use crate::client::message::random_name;
use crate::client::pgp;

/// Size of the attachment in bytes.
const ATTACHMENT: usize = 10_000_000;

pub(super) async fn securejoin_across(context: &Context) -> anyhow::Result<()> {
    context.across().await.map(|_| ())
}

pub(super) async fn securejoin_local(context: &Context) -> anyhow::Result<()> {
    context.local().await.map(|_| ())
}

/// Sends a message and a reply; both users' chats then end with exactly these two.
pub async fn messages(pair: &Pair) -> anyhow::Result<()> {
    let (question, answer) = (
        format!("question {}", random_name(8)),
        format!("answer {}", random_name(8)),
    );
    let start = pair.other.mark();
    pair.one.send(pair.one_chat, &question).await?;
    let (received, _) = pair.other.receive(start, &question).await?;
    ensure!(
        received.chat_id == pair.other_chat,
        "the message is not in the chat that SecureJoin created"
    );
    let start = pair.one.mark();
    pair.other.send(pair.other_chat, &answer).await?;
    pair.one.receive(start, &answer).await?;
    for (user, chat) in [(&pair.one, pair.one_chat), (&pair.other, pair.other_chat)] {
        let texts = user.texts(chat).await?;
        ensure!(
            texts.ends_with(&[question.clone(), answer.clone()]),
            "{} sees {texts:?}",
            user.name
        );
    }
    Ok(())
}

pub(super) async fn messages_across(context: &Context) -> anyhow::Result<()> {
    messages(context.across().await?).await
}

pub(super) async fn messages_local(context: &Context) -> anyhow::Result<()> {
    messages(context.local().await?).await
}

async fn attachment(pair: &Pair) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (sent, saved) = (
        directory.path().join("attachment.bin"),
        directory.path().join("saved.bin"),
    );
    let mut content = vec![0; ATTACHMENT];
    rand::RngCore::fill_bytes(&mut rand::rng(), &mut content);
    tokio::fs::write(&sent, &content).await?;
    let start = pair.other.mark();
    pair.one.send_file(pair.one_chat, &sent).await?;
    let (received, _) = pair.other.receive_file(start).await?;
    pair.other.save_file(received.id, &saved).await?;
    ensure!(
        tokio::fs::read(&saved).await? == content,
        "the attachment was changed in transit"
    );
    Ok(())
}

pub(super) async fn attachment_across(context: &Context) -> anyhow::Result<()> {
    attachment(context.across().await?).await
}

pub(super) async fn attachment_local(context: &Context) -> anyhow::Result<()> {
    attachment(context.local().await?).await
}

async fn read_receipt(pair: &Pair) -> anyhow::Result<()> {
    let text = format!("please read {}", random_name(8));
    let (one, other) = (pair.one.mark(), pair.other.mark());
    let sent = pair.one.send(pair.one_chat, &text).await?;
    let (received, _) = pair.other.receive(other, &text).await?;
    pair.other.mark_seen(received.id).await?;
    pair.one.read_receipt(one, sent).await?;
    Ok(())
}

pub(super) async fn read_receipt_across(context: &Context) -> anyhow::Result<()> {
    read_receipt(context.across().await?).await
}

pub(super) async fn read_receipt_local(context: &Context) -> anyhow::Result<()> {
    read_receipt(context.local().await?).await
}

/// The server notifies clients of new mail immediately, well before a client that polls once a minute would ask.
pub(super) async fn idle_wakes(context: &Context) -> anyhow::Result<()> {
    for (from, to) in [("a", "a"), ("a", "b")] {
        let (sender, receiver) = (context.account(from).await?, context.account(to).await?);
        let (mut imap, exists) = receiver.inbox().await?;
        let mut idle = imap.idle().await?;
        let message = pgp::encrypted(&sender.address, 2000);
        let mut smtp = sender.smtp().await?;
        smtp.send(&sender.address, &[&receiver.address], &message.bytes())
            .await?
            .expect(250)?;
        let (sequence, _) = idle.exists(exists + 1, Duration::from_secs(10)).await?;
        idle.done().await?;
        let stored = imap
            .fetch(sequence)
            .await
            .context("fetching the announced message")?;
        let text = String::from_utf8_lossy(&stored).into_owned();
        ensure!(text.contains(message.id()), "another message arrived");
    }
    Ok(())
}

/// The server also announces messages that arrive while it announces earlier ones, although it checks the mailbox
/// on a timer only every half minute.
pub(super) async fn idle_burst(context: &Context) -> anyhow::Result<()> {
    const SENDERS: u32 = 4;
    const EACH: u32 = 8;
    let receiver = context.account("a").await?;
    let (mut imap, exists) = receiver.inbox().await?;
    let mut connections = Vec::new();
    for _ in 0..SENDERS {
        let sender = context.account("a").await?;
        let smtp = sender.smtp().await?;
        connections.push((sender, smtp));
    }
    let mut idle = imap.idle().await?;
    let mut senders = tokio::task::JoinSet::new();
    for (sender, mut smtp) in connections {
        let to = receiver.address.clone();
        senders.spawn(async move {
            for _ in 0..EACH {
                let message = pgp::encrypted(&sender.address, 2000);
                smtp.send(&sender.address, &[&to], &message.bytes())
                    .await?
                    .expect(250)?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(sent) = senders.join_next().await {
        sent??;
    }
    idle.exists(exists + SENDERS * EACH, Duration::from_secs(10))
        .await
        .context("waiting for the last message of a burst")?;
    Ok(())
}
