//! Push notifications for the devices of clients.

mod server;

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use mailtest::client::{Account, arrival, pgp};
use mailtest::scenarios::metadata::token;
use mailtest::until;

use self::server::Server;
use super::{Context, kill};

/// The relay with the devices.
const RELAY: &str = "a";

/// Maximum delivery time between the relays.
const DELIVERED: Duration = Duration::from_secs(60);

/// Maximum time from the arrival of a message to its notification.
const NOTIFIED: Duration = Duration::from_secs(10);

/// The relay retries a failed request after 8 seconds.
const REPEATED: Duration = Duration::from_secs(20);

const SERVICE: &str = "chatmail-metadata.service";

async fn send(from: &Account, to: &Account) -> anyhow::Result<String> {
    let message = pgp::encrypted(&from.address, 2000);
    from.smtp()
        .await?
        .send(&from.address, &[&to.address], &message.bytes())
        .await?
        .expect(250)?;
    Ok(message.id().to_owned())
}

/// Mail from another relay causes one notification for each device of the account; mail to oneself causes none.
pub(super) async fn message_wakes_devices(context: &Context) -> anyhow::Result<()> {
    let server = Server::start(context).await?;
    let (sender, receiver) = (context.account("b").await?, context.account(RELAY).await?);
    let (phone, tablet) = (token("phone"), token("tablet"));
    let (mut imap, _) = receiver.inbox().await?;
    for token in [&phone, &tablet] {
        imap.add_device_token(token).await?;
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
    // The message to oneself caused no notification, and the other exactly one for each device.
    for token in [&phone, &tablet] {
        let count = server.of(token).len();
        ensure!(count == 1, "{count} notifications for one message");
    }
    Ok(())
}

/// A notification server responds in every way, and the service is killed meanwhile.
pub(super) async fn server_in_trouble(context: &Context) -> anyhow::Result<()> {
    let server = Server::start(context).await?;
    let (sender, receiver) = (context.account("b").await?, context.account(RELAY).await?);
    let kinds = ["fine", "gone", "busy", "error", "reset", "hang"];
    let all = kinds.map(token);
    let [fine, gone, busy, error, reset, hang] = &all;
    let (mut imap, _) = receiver.inbox().await?;
    for token in &all {
        imap.add_device_token(token).await?;
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
                "the request with {token} is retried after {pause:?}"
            );
        }
    }
    let known = imap.device_tokens().await?.unwrap_or_default();
    ensure!(
        !known.contains(gone.as_str()),
        "the token of a removed device is still stored"
    );
    ensure!(
        known.contains(error.as_str()),
        "a token was removed after an error of the server"
    );
    // One request hangs. The notification survives the end of the process.
    kill::kill(context, RELAY, SERVICE).await?;
    server.wait(hang, 2, NOTIFIED).await?;
    server.heal();
    nothing_pending(context).await?;
    let count = server.of(fine).len();
    ensure!(count == 1, "a delivered notification arrived {count} times");
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
