//! The iroh relay for realtime connections: requests that clients send before they use it.

use anyhow::ensure;

use super::Context;
use crate::client::http;

/// One relay of each kind: with a self-signed certificate, and with one from a trusted CA.
const RELAYS: [&str; 2] = ["a", "c"];

/// Paths that clients request to measure the latency to the relay and to detect captive portals.
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
