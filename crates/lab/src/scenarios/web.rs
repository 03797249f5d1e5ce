//! The rate limit for new addresses on the web site.

use anyhow::ensure;
use mailtest::client::http;

use super::Context;

/// `web.newAddressesPerMinute` is the only limit: relay b creates more addresses at once than the default permits.
pub(super) async fn new_addresses(context: &Context) -> anyhow::Result<()> {
    const MANY: usize = 150;
    let peer = context.peer("b")?;
    for number in 1..=MANY {
        let answer = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
        ensure!(answer.status == 200, "address {number}: {}", answer.head);
    }
    Ok(())
}
