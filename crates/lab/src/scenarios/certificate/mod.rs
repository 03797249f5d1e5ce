//! The relay serves a new certificate on every port, and open submission sessions keep working.

mod account;
mod pebble;
mod relay;

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::{arrival, http, pgp};
use mailtest::until;

use self::relay::{ORDER, RELAY, RELOAD, SELF_SIGNED, TIMER, forget, handshakes, served};
use super::Context;

/// Maximum time for local delivery.
const ARRIVAL: Duration = Duration::from_secs(15);

/// Runs `change` while a client is logged in for submission; afterwards, the client can still send. This does not hold
/// for IMAP: Dovecot closes sessions that were idle for 10 s when it reloads, and clients connect again.
async fn survives(
    context: &Context,
    relay: &str,
    change: impl Future<Output = anyhow::Result<()>>,
) -> anyhow::Result<()> {
    let account = context.account(relay).await?;
    let mut smtp = account.smtp().await?;
    change.await?;
    let address = &account.address;
    let message = pgp::encrypted(address, 2000);
    let reply = smtp.send(address, &[address], &message.bytes()).await;
    reply.context("the session on port 465")?.expect(250)?;
    let (mut imap, _) = account.inbox().await?;
    arrival(&mut imap, message.id(), ARRIVAL).await?;
    Ok(())
}

pub(super) use account::imported as account_imported;

pub(super) async fn acme(context: &Context) -> anyhow::Result<()> {
    /// The delay before an order is retried is 10 s; see nix/eval/hosts/lab-e.nix. Before an order fails, newer
    /// versions of lego try to reach the server for 30 s.
    const REPEATED: Duration = Duration::from_secs(120);
    let property = async |name: &str, unit: &str| {
        let show = ["systemctl", "show", "--property", name, "--value", unit];
        anyhow::Ok(context.run(RELAY, &show).await?.trim().to_owned())
    };
    // No server responds, as for a relay whose DNS records are not published yet.
    pebble::stop(context).await?;
    forget(context).await?;
    let failed = || async {
        let orders: u32 = property("NRestarts", ORDER).await?.parse()?;
        Ok((orders >= 2).then_some(()))
    };
    until(REPEATED, failed)
        .await
        .context("a failed order is not retried")?;
    for unit in [SELF_SIGNED, TIMER, "nginx.service"] {
        context.run(RELAY, &["systemctl", "is-active", unit]).await?;
    }
    let triggers = property("Triggers", TIMER).await?;
    ensure!(triggers == ORDER, "{TIMER} starts {triggers}");

    // nginx serves the server's challenge: the next order starts nginx.
    context
        .run(RELAY, &["systemctl", "stop", "nginx.service"])
        .await?;
    let trusting = context.peer(RELAY)?.with_tls(pebble::start(context).await?);
    survives(context, RELAY, async {
        // A unit that waits for its restart is in state activating.
        let ordered = || async { Ok((property("ActiveState", ORDER).await? == "inactive").then_some(())) };
        until(REPEATED, ordered)
            .await
            .context("the order is not retried")?;
        served(&trusting).await?;
        for name in ["www.e.test", "mta-sts.e.test"] {
            http::request(trusting.port(443), &trusting.tls, name, "GET", "/")
                .await
                .with_context(|| format!("the certificate for {name}"))?;
        }
        Ok(())
    })
    .await?;

    // On the next day, the certificate is not due for renewal.
    let files = async || {
        let print = "sha256sum /var/lib/acme/e.test/fullchain.pem /var/lib/acme/e.test/key.pem";
        context.run(RELAY, &["sh", "-c", print]).await
    };
    let before = files().await?;
    context.run(RELAY, &["systemctl", "start", ORDER]).await?;
    ensure!(
        before == files().await?,
        "a certificate was replaced long before it expires"
    );
    pebble::stop(context).await
}

/// Overwrites the file as the operator would, which keeps its owner and mode.
fn replace(folder: &Path, name: &str, text: &str) -> anyhow::Result<()> {
    fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))
}

/// If the certificate arrives long after the daemons were started, they start without intervention.
pub(super) async fn late(context: &Context) -> anyhow::Result<()> {
    const RELAY: &str = "c";
    const UNITS: [&str; 3] = ["dovecot.service", "nginx.service", "postfix.service"];
    /// More starts than systemd's default start limit allows.
    const STARTS: u32 = 6;
    const WAITING: Duration = Duration::from_secs(90);
    context
        .run(RELAY, &[&["systemctl", "stop"][..], &UNITS].concat())
        .await?;
    let (folder, away) = ("/etc/chatmail/tls", "/etc/chatmail/tls-away");
    context.run(RELAY, &["mv", folder, away]).await?;
    let waited = async {
        let start = [&["systemctl", "start", "--no-block"][..], &UNITS].concat();
        context.run(RELAY, &start).await?;
        for unit in ["dovecot.service", "nginx.service"] {
            let started = || async {
                let show = ["systemctl", "show", "--property=NRestarts", "--value", unit];
                let starts: u32 = context.run(RELAY, &show).await?.trim().parse()?;
                Ok((starts >= STARTS).then_some(()))
            };
            until(WAITING, started)
                .await
                .with_context(|| format!("systemd does not keep restarting {unit}"))?;
        }
        Ok(())
    }
    .await;
    context.run(RELAY, &["mv", away, folder]).await?;
    for unit in UNITS {
        let active = || async {
            let state = context
                .machines()
                .exec(RELAY, &["systemctl", "is-active", unit])
                .await?;
            Ok(state.status.success().then_some(()))
        };
        until(WAITING, active)
            .await
            .with_context(|| format!("{unit} does not start when the certificate exists"))?;
    }
    served(&context.peer(RELAY)?).await?;
    waited
}

pub(super) async fn external(context: &Context) -> anyhow::Result<()> {
    const RELAY: &str = "c";
    const UNIT: &str = "chatmail-certificate";
    let lab = context.machines();
    let peer = context.peer(RELAY)?;
    // The new certificate has a name that the old one lacks, so clients can distinguish them.
    let new = format!("{}.{}", mailtest::client::message::random_name(8), peer.domain);
    let names = [
        &peer.domain,
        &format!("www.{}", peer.domain),
        &format!("mta-sts.{}", peer.domain),
        &new,
    ];
    let (chain, key) = lab.certificate(&names.map(Clone::clone))?;
    let folder = lab.root(RELAY).join("etc/chatmail/tls");
    survives(context, RELAY, async {
        let start = lab.cursor(RELAY).await?;
        replace(&folder, "fullchain.pem", &chain)?;
        let waiting = "The key does not belong to the certificate";
        lab.follow(RELAY, Some(UNIT), &start, waiting, RELOAD).await?;
        replace(&folder, "key.pem", &key)?;
        served(&peer.called(&new)).await?;
        handshakes(&peer).await
    })
    .await
}
