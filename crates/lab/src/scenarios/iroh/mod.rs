//! Realtime connections: peers of a webxdc app meet at the relay that METADATA announces.

mod peers;

use anyhow::{Context as _, ensure};

use super::Context;

/// One relay of each kind: with a certificate of its own, and with one that everybody accepts.
const RELAYS: [&str; 2] = ["a", "c"];

/// The URL that an account's client is told.
async fn announced(context: &Context, relay: &str) -> anyhow::Result<String> {
    let account = context.account(relay).await?;
    let mut imap = account.imap().await?;
    imap.server_metadata("/shared/vendor/deltachat/irohrelay")
        .await?
        .context("no iroh relay is announced")
}

/// Two endpoints send each other data through the relay, and cannot without it.
pub(super) async fn peers_meet(context: &Context) -> anyhow::Result<()> {
    let peers = peers::prepare(context.cache()).await?;
    let resolver = context.topology.resolver.into();
    for relay in RELAYS {
        let url = announced(context, relay).await?;
        ensure!(
            url == format!("https://{}", context.peer(relay)?.domain),
            "the iroh relay is {url}"
        );
        peers.meet(&url, resolver).await?;
    }
    Ok(())
}
