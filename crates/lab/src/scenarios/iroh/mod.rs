//! Realtime connections: peers of a webxdc app connect through the iroh relay that METADATA announces.

mod peers;

use anyhow::{Context as _, ensure};

use super::Context;

/// One relay of each kind: with a self-signed certificate, and with one from a trusted CA.
const RELAYS: [&str; 2] = ["a", "c"];

/// Returns the URL that the relay announces to an account's client.
async fn announced(context: &Context, relay: &str) -> anyhow::Result<String> {
    let account = context.account(relay).await?;
    let mut imap = account.imap().await?;
    imap.server_metadata("/shared/vendor/deltachat/irohrelay")
        .await?
        .context("no iroh relay is announced")
}

/// Two endpoints exchange data through the relay, and cannot do so without it.
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
