//! METADATA as clients read and write it, and notifications that wake their devices.

mod server;

use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};

use self::server::Server;
use super::{Context, kill, until};
use crate::client::imap::{Imap, Status, Value};
use crate::client::message::random_name;
use crate::client::{Account, arrival, pgp};

/// The relay whose devices are woken.
const RELAY: &str = "a";

/// How long mail may take between the relays.
const DELIVERED: Duration = Duration::from_secs(60);

/// How long a notification may take once the message is there.
const NOTIFIED: Duration = Duration::from_secs(10);

/// A failed request is repeated after 8 seconds.
const REPEATED: Duration = Duration::from_secs(20);

const SERVICE: &str = "chatmail-metadata.service";

fn token(kind: &str) -> String {
    format!("{kind}-{}", random_name(12))
}

async fn set_token(imap: &mut Imap, value: &str) -> anyhow::Result<Status> {
    let command = format!("SETMETADATA \"INBOX\" (/private/devicetoken {value})");
    Ok(imap.command(&command).await?.status)
}

async fn add_token(imap: &mut Imap, token: &str) -> anyhow::Result<()> {
    let status = set_token(imap, &format!("\"{token}\"")).await?;
    ensure!(
        status == Status::Ok,
        "the relay does not take a device token: {status:?}"
    );
    Ok(())
}

async fn tokens(imap: &mut Imap) -> anyhow::Result<Option<String>> {
    let answer = imap
        .command("GETMETADATA \"INBOX\" (/private/devicetoken)")
        .await?
        .ok()?;
    let list = answer
        .data("METADATA")
        .find_map(|values| values.get(1)?.as_list())
        .context("no METADATA")?;
    Ok(list.get(1).and_then(Value::as_text))
}

async fn send(from: &Account, to: &Account) -> anyhow::Result<String> {
    let message = pgp::encrypted(&from.address, 2000);
    from.smtp()
        .await?
        .send(&from.address, &[&to.address], &message.bytes())
        .await?
        .expect(250)?;
    Ok(message.id().to_owned())
}

pub(super) async fn announcements(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    for (entry, wanted) in [
        ("maxsmtprecipients", Some("1000")),
        ("maxmessagesize", Some("52428800")),
        ("nothing", None),
    ] {
        let found = imap
            .server_metadata(&format!("/shared/vendor/deltachat/{entry}"))
            .await?;
        ensure!(found.as_deref() == wanted, "{entry} is {found:?}");
    }
    let admin = imap.server_metadata("/shared/admin").await?;
    ensure!(
        admin.as_deref().is_some_and(|admin| admin.starts_with("mailto:")),
        "/shared/admin is {admin:?}"
    );
    let versions = imap
        .server_metadata("/shared/vendor/deltachat/appversions")
        .await?;
    let versions: serde_json::Value = serde_json::from_str(&versions.context("no app versions")?)?;
    let version = versions.pointer("/clients/0/sources/0/versionString");
    ensure!(
        version.is_some_and(|version| version == "1.2.0"),
        "the app versions are {versions}"
    );
    let turn = imap.server_metadata("/shared/vendor/deltachat/turn").await?;
    let turn = turn.context("no TURN server is announced")?;
    let [host, "3478", expires, password] = turn.split(':').collect::<Vec<_>>()[..] else {
        bail!("the TURN server is announced as {turn:?}");
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let left = expires.parse::<u64>()?.saturating_sub(now);
    ensure!(host == account.peer.domain, "the TURN server is {host}");
    // Delta Chat asks again when less than half a day is left.
    ensure!(left > 12 * 60 * 60, "credentials end in {left} s");
    ensure!(
        password.len() == 28,
        "{} characters are no HMAC-SHA1",
        password.len()
    );
    Ok(())
}

pub(super) async fn device_tokens(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    let none = tokens(&mut imap).await?;
    ensure!(none.is_none(), "a new account has tokens: {none:?}");
    let (one, two) = (token("openpgp:one"), token("openpgp:two"));
    add_token(&mut imap, &one).await?;
    add_token(&mut imap, &two).await?;
    add_token(&mut imap, &one).await?;
    let both = tokens(&mut imap).await?.unwrap_or_default();
    let mut both: Vec<_> = both.split(' ').collect();
    both.sort_unstable();
    ensure!(both == [&one, &two], "the tokens are {both:?}");
    let refused = set_token(&mut imap, "\"two words\"").await?;
    ensure!(refused == Status::No, "a token of two words: {refused:?}");
    // They are the account's own.
    let other = context.account(RELAY).await?;
    let theirs = tokens(&mut other.imap().await?).await?;
    ensure!(theirs.is_none(), "another account sees {theirs:?}");
    let removed = set_token(&mut imap, "NIL").await?;
    ensure!(removed == Status::Ok, "removing all tokens: {removed:?}");
    let none = tokens(&mut imap).await?;
    ensure!(none.is_none(), "after their removal there are {none:?}");
    Ok(())
}

/// Mail from another relay wakes each device of the account once, mail to oneself none.
pub(super) async fn message_wakes_devices(context: &Context) -> anyhow::Result<()> {
    let server = Server::start(context).await?;
    let (sender, receiver) = (context.account("b").await?, context.account(RELAY).await?);
    let (phone, tablet) = (token("phone"), token("tablet"));
    let (mut imap, _) = receiver.inbox().await?;
    for token in [&phone, &tablet] {
        add_token(&mut imap, token).await?;
    }
    let id = send(&receiver, &receiver).await?;
    arrival(&mut imap, &id, DELIVERED).await?;
    let id = send(&sender, &receiver).await?;
    arrival(&mut imap, &id, DELIVERED).await?;
    let arrived = Instant::now();
    for token in [&phone, &tablet] {
        let got = server.wait(token, 1, NOTIFIED).await?;
        let [one] = got.as_slice() else {
            bail!("{} notifications for one device", got.len());
        };
        let relay = context.topology.relay(RELAY).context("no such relay")?;
        ensure!(one.from.ip() == relay.ipv4, "it came from {}", one.from);
        ensure!(one.http2, "it did not come over HTTP/2");
        let after = one.at.saturating_duration_since(arrived);
        ensure!(after < Duration::from_secs(5), "it came after {after:?}");
    }
    nothing_pending(context).await?;
    // Nothing came for the message to oneself, nor twice for the other.
    for token in [&phone, &tablet] {
        let count = server.of(token).len();
        ensure!(count == 1, "{count} notifications for one message");
    }
    Ok(())
}

/// Everything that a notification server may do, and the service killed in the middle of it.
pub(super) async fn server_in_trouble(context: &Context) -> anyhow::Result<()> {
    let server = Server::start(context).await?;
    let (sender, receiver) = (context.account("b").await?, context.account(RELAY).await?);
    let kinds = ["fine", "gone", "busy", "error", "reset", "hang"];
    let all = kinds.map(token);
    let [fine, gone, busy, error, reset, hang] = &all;
    let (mut imap, _) = receiver.inbox().await?;
    for token in &all {
        add_token(&mut imap, token).await?;
    }
    let id = send(&sender, &receiver).await?;
    arrival(&mut imap, &id, DELIVERED).await?;
    for token in [fine, gone, hang] {
        server.wait(token, 1, NOTIFIED).await?;
    }
    for token in [busy, error, reset] {
        let got = server.wait(token, 2, REPEATED).await?;
        if let [first, second, ..] = got.as_slice() {
            let pause = second.at - first.at;
            let asked = if token == busy { 2.0 } else { 8.0 };
            ensure!(
                pause.as_secs_f64() > asked - 0.5,
                "{token} is repeated after {pause:?}"
            );
        }
    }
    let known = tokens(&mut imap).await?.unwrap_or_default();
    ensure!(
        !known.contains(gone.as_str()),
        "a device that is gone is still known"
    );
    ensure!(
        known.contains(error.as_str()),
        "a device is forgotten for an error of the server"
    );
    // One request hangs. The process goes, the notification stays.
    kill::kill(context, RELAY, SERVICE).await?;
    server.wait(hang, 2, NOTIFIED).await?;
    server.heal();
    nothing_pending(context).await?;
    let count = server.of(fine).len();
    ensure!(count == 1, "what had been delivered came {count} times");
    Ok(())
}

async fn nothing_pending(context: &Context) -> anyhow::Result<()> {
    let empty = || async {
        let files = context
            .run(
                RELAY,
                &["ls", "-A", "/var/lib/chatmail-metadata/pending_notifications"],
            )
            .await?;
        Ok(files.trim().is_empty().then_some(()))
    };
    until(NOTIFIED, empty)
        .await
        .context("the push queue does not become empty")
}
