//! The relay for realtime connections, as clients see it before they use it.

use anyhow::ensure;

use super::Context;
use crate::client::http;

/// One relay of each kind: with a certificate of its own, and with one that everybody accepts.
const RELAYS: [&str; 2] = ["a", "c"];

/// What clients ask to learn whether the relay is there, and whether a network lets them out.
pub(super) async fn probes(context: &Context) -> anyhow::Result<()> {
    for relay in RELAYS {
        let peer = context.peer(relay)?;
        for (path, status) in [("/ping", 200), ("/generate_204", 204)] {
            let answer = http::request(peer.port(443), &peer.tls, &peer.domain, "GET", path).await?;
            ensure!(answer.status == status, "GET {path}: {}", answer.head);
        }
    }
    Ok(())
}
