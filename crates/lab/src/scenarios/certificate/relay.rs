//! The relay whose certificate comes from the ACME server, and the certificate that a relay serves.

use std::time::Duration;

use anyhow::Context as _;
use mailtest::client::imap::Imap;
use mailtest::client::{Peer, http, outside};
use mailtest::until;

use crate::scenarios::Context;

/// The relay with a certificate from the ACME server.
pub(super) const RELAY: &str = "e";

/// Units that NixOS generates from the module's settings: one creates a self-signed certificate, one orders a
/// certificate from the server, and a timer starts the latter daily.
pub(super) const SELF_SIGNED: &str = "acme-e.test.service";
pub(super) const ORDER: &str = "acme-order-renew-e.test.service";
pub(super) const TIMER: &str = "acme-renew-e.test.timer";

/// Time within which the daemons serve a new certificate.
pub(super) const RELOAD: Duration = Duration::from_secs(30);

/// Performs a TLS handshake on every port, and verifies the certificate with the peer's TLS settings.
pub(super) async fn handshakes(peer: &Peer) -> anyhow::Result<()> {
    peer.exchange(outside::DOMAIN).await.context("port 25")?;
    peer.submission().await.context("port 465")?;
    peer.submission_starttls().await.context("port 587")?;
    peer.imap().await.context("port 993")?;
    let imap = Imap::connect(peer.port(143)).await?;
    imap.starttls(&peer.tls, &peer.domain).await.context("port 143")?;
    http::request(peer.port(443), &peer.tls, &peer.domain, "GET", "/")
        .await
        .context("port 443")?;
    Ok(())
}

/// Waits until the certificate on every port is valid for this client.
pub(super) async fn served(peer: &Peer) -> anyhow::Result<()> {
    let everywhere = || async { Ok(handshakes(peer).await.ok()) };
    if until(RELOAD, everywhere).await.is_err() {
        handshakes(peer)
            .await
            .context("the relay does not serve the new certificate")?;
    }
    Ok(())
}

/// Removes certificates and accounts of an earlier run, in a lab that is kept running.
pub(super) async fn forget(context: &Context) -> anyhow::Result<()> {
    let forget = format!(
        "systemctl stop {ORDER} && rm -rf /var/lib/acme/.lego/e.test/*/* /var/lib/acme/.lego/accounts/*/* \
         /var/lib/acme/e.test/* && systemctl restart {SELF_SIGNED}"
    );
    context.run(RELAY, &["sh", "-c", &forget]).await.map(drop)
}
