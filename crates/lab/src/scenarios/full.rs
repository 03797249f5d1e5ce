//! The file system of Postfix's queue is full: clients learn it before they send a message, and mail flows again once
//! there is space.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::mxdeliv::{envelope, post};
use mailtest::client::outside::{DOMAIN, Signing, signed};
use mailtest::client::smtp::Smtp;
use mailtest::client::{Account, arrival, pgp, websocket};

use super::Context;
use super::delivery::deferred;

const RELAY: &str = "a";
/// A relay that delivers over HTTPS first, and one that delivers over SMTP only.
const OTHERS: [&str; 2] = ["b", "c"];
const WITHIN: Duration = Duration::from_secs(60);
const FULL: &str = "452 4.3.1 Insufficient system storage";
const QUEUE: &str = "/var/lib/postfix/queue";
/// Sizes of the file system: with room, and with less than Postfix keeps free (`queue_minfree`).
const ROOM: &str = "2g";
const NO_ROOM: &str = "300m";
/// Not even room for one message.
const NOTHING: &str = "1m";
/// A message that does not fit there.
const MESSAGE: usize = 4 << 20;

/// The queue on a file system of its own, with all that belongs into it. The filters see it, too.
const MOUNT: &str = "
systemctl stop postfix dovecot
tar -C \"$0\" -cf /run/queue.tar . 2>/dev/null
mount -t tmpfs -o size=\"$1\",mode=0755 tmpfs \"$0\"
tar -C \"$0\" -xpf /run/queue.tar
rm /run/queue.tar
systemctl start dovecot postfix
systemctl restart filtermail-incoming filtermail-outgoing filtermail-mxdeliv chatmail-websocket
";

const UNMOUNT: &str = "
systemctl stop postfix dovecot
umount -l \"$0\"
systemctl start dovecot postfix
systemctl restart filtermail-incoming filtermail-outgoing filtermail-mxdeliv chatmail-websocket
";

async fn resize(context: &Context, size: &str) -> anyhow::Result<()> {
    let option = format!("remount,size={size}");
    context.run(RELAY, &["mount", "-o", &option, QUEUE]).await?;
    Ok(())
}

pub(super) async fn refuses(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let account = context.account(RELAY).await?;
    context.run(RELAY, &["bash", "-ec", MOUNT, QUEUE, ROOM]).await?;
    let played = played(context, &account).await;
    context.run(RELAY, &["bash", "-ec", UNMOUNT, QUEUE]).await?;
    played?;
    doors(&account, None).await.context("on the old file system")
}

async fn played(context: &Context, account: &Account) -> anyhow::Result<()> {
    doors(account, None).await.context("with room")?;
    resize(context, NO_ROOM).await?;
    doors(account, Some(FULL)).await.context("without room")?;
    let (mut imap, _) = account.inbox().await.context("users still read their mail")?;

    // Mail waits on the other relays, each of which has tried all ways it knows.
    let mut waiting = Vec::new();
    for other in OTHERS {
        let sender = context.account(other).await?;
        let message = pgp::encrypted(&sender.address, 2000);
        sender.submit(&account.address, &message).await?.expect(250)?;
        let (_, reason) = deferred(context, other, &account.address).await?;
        ensure!(reason.contains(FULL), "relay {other}: {reason}");
        waiting.push(message);
    }

    resize(context, ROOM).await?;
    for other in OTHERS {
        context.run(other, &["postqueue", "-f"]).await?;
    }
    for message in &waiting {
        arrival(&mut imap, message.id(), WITHIN).await?;
    }
    doors(account, None).await.context("with room again")?;
    in_the_middle(context, account)
        .await
        .context("the space ends within a message")
}

/// Begins a message at every door, and finishes it if nothing is expected to prevent it.
async fn doors(account: &Account, refused: Option<&str>) -> anyhow::Result<()> {
    let mut over_websocket = websocket::smtp(&account.peer).await?;
    over_websocket.ehlo("[127.0.0.1]").await?;
    over_websocket
        .auth_plain(&account.address, &account.password)
        .await?
        .expect(235)?;
    let outside = format!("someone@{DOMAIN}");
    let from_outside = signed(&pgp::encrypted(&outside, 2000), Signing::Good)?;
    let own = pgp::encrypted(&account.address, 2000).bytes();
    for (door, session, from, message) in [
        (
            "port 25",
            account.peer.exchange(DOMAIN).await?,
            &outside,
            &from_outside,
        ),
        ("submission", account.smtp().await?, &account.address, &own),
        ("WebSocket", over_websocket, &account.address, &own),
    ] {
        at(session, from, &account.address, message, refused)
            .await
            .context(door)?;
    }
    let got = post(
        &account.peer,
        &envelope(&outside, &[&account.address]),
        &from_outside,
    )
    .await?;
    let expected = match refused {
        Some(reply) => got == (400, reply.to_owned()),
        None => got.0 == 200,
    };
    ensure!(expected, "/mxdeliv: {got:?}");
    Ok(())
}

async fn at(
    mut session: Smtp,
    from: &str,
    to: &str,
    message: &[u8],
    refused: Option<&str>,
) -> anyhow::Result<()> {
    match refused {
        Some(reply) => {
            let command = format!("MAIL FROM:<{from}>");
            session.command(&command).await?.expect_line(reply)
        }
        None => session.send(from, &[to], message).await?.expect(250).map(drop),
    }
}

/// The reply is temporary, the relay delivers nothing, and the session continues.
async fn in_the_middle(context: &Context, account: &Account) -> anyhow::Result<()> {
    let mut session = account.smtp().await?;
    for command in [
        format!("MAIL FROM:<{}>", account.address),
        format!("RCPT TO:<{}>", account.address),
        "DATA".to_owned(),
    ] {
        let reply = session.command(&command).await?;
        ensure!(reply.is_positive(), "{command}: {reply}");
    }
    resize(context, NOTHING).await?;
    let message = pgp::encrypted(&account.address, MESSAGE);
    session
        .write(&mailtest::client::smtp::dot_stuffed(&message.bytes()))
        .await?;
    let reply = session.reply().await?;
    println!("    the disk is full within a message: {reply}");
    ensure!(reply.is_transient(), "{reply}");
    resize(context, ROOM).await?;
    let again = session
        .send(&account.address, &[&account.address], &message.bytes())
        .await?;
    again.expect(250)?;
    let (mut imap, _) = account.inbox().await?;
    arrival(&mut imap, message.id(), WITHIN).await?;
    let found = imap
        .search(&format!("HEADER Message-ID {}", message.id()))
        .await?;
    ensure!(found.len() == 1, "the message arrived {} times", found.len());
    Ok(())
}
