//! `iroh-peers URL RESOLVER`: connects two endpoints that know only each other's key and the URL of this relay. They
//! send each other enough data for many packets, and check every byte and that the relay was the only path.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use iroh::dns::DnsResolver;
use iroh::endpoint::{ConnectionType, PathSelection, RecvStream, SendStream};
use iroh::{Endpoint, NodeAddr, NodeId, RelayMap, RelayMode, RelayUrl};

/// Name of their protocol.
const ALPN: &[u8] = b"chatmail-lab/0";

/// Bytes that each endpoint sends.
const LENGTH: usize = 256 * 1024;

/// Time limit for everything.
const DEADLINE: Duration = Duration::from_secs(45);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(resolver), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        bail!("usage: iroh-peers URL RESOLVER, with the resolver as ADDRESS:PORT");
    };
    let url: RelayUrl = url.parse().with_context(|| format!("{url} is not a URL"))?;
    let resolver: SocketAddr = resolver
        .parse()
        .with_context(|| format!("{resolver} is not an address and a port"))?;
    tokio::time::timeout(DEADLINE, meet(&url, resolver))
        .await
        .with_context(|| format!("no exchange of data within {DEADLINE:?}"))??;
    println!("{LENGTH} bytes each way through {url}");
    Ok(())
}

async fn meet(url: &RelayUrl, resolver: SocketAddr) -> anyhow::Result<()> {
    let (caller, called) = tokio::try_join!(endpoint(url, resolver), endpoint(url, resolver))?;
    // The called endpoint has to be connected to the relay already.
    for endpoint in [&caller, &called] {
        let home = endpoint.home_relay().initialized().await?;
        ensure!(home == *url, "an endpoint uses the relay {home}");
    }
    let address = NodeAddr::new(called.node_id()).with_relay_url(url.clone());
    let calls = async {
        let connection = caller.connect(address, ALPN).await.context("cannot connect")?;
        let (send, receive) = connection.open_bi().await?;
        exchange(send, receive, 1, 2)
            .await
            .context("the calling endpoint")?;
        relayed(&caller, called.node_id(), url)?;
        connection.closed().await;
        anyhow::Ok(())
    };
    let answers = async {
        let incoming = called.accept().await.context("no connection arrives")?;
        let connection = incoming.await.context("cannot accept a connection")?;
        let (send, receive) = connection.accept_bi().await?;
        exchange(send, receive, 2, 1)
            .await
            .context("the called endpoint")?;
        relayed(&called, caller.node_id(), url)?;
        connection.close(0u8.into(), b"done");
        anyhow::Ok(())
    };
    tokio::try_join!(calls, answers)?;
    tokio::join!(caller.close(), called.close());
    Ok(())
}

async fn endpoint(url: &RelayUrl, resolver: SocketAddr) -> anyhow::Result<Endpoint> {
    Endpoint::builder()
        .relay_mode(RelayMode::Custom(RelayMap::from(url.clone())))
        .alpns(vec![ALPN.to_vec()])
        .dns_resolver(DnsResolver::with_nameserver(resolver))
        // The lab's relays have no certificate from an authority that iroh trusts.
        .insecure_skip_relay_cert_verify(true)
        .path_selection(PathSelection::RelayOnly)
        .bind()
        .await
}

/// Sends [`LENGTH`] bytes of one value and reads as many of another; each side waits until the other has received all.
async fn exchange(mut send: SendStream, mut receive: RecvStream, mine: u8, theirs: u8) -> anyhow::Result<()> {
    let sending = async {
        send.write_all(&vec![mine; LENGTH]).await?;
        send.finish()?;
        ensure!(
            send.stopped().await?.is_none(),
            "the other endpoint has stopped reading"
        );
        Ok(())
    };
    let receiving = async {
        let got = receive.read_to_end(LENGTH).await?;
        ensure!(
            got == vec![theirs; LENGTH],
            "received {} bytes, or other values",
            got.len()
        );
        Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    Ok(())
}

/// Fails if an endpoint uses a path to the other one that is not this relay. Endpoints that are restricted to relays may
/// report no path at all.
fn relayed(endpoint: &Endpoint, other: NodeId, url: &RelayUrl) -> anyhow::Result<()> {
    match endpoint.conn_type(other)?.get()? {
        ConnectionType::None => Ok(()),
        ConnectionType::Relay(relay) if relay == *url => Ok(()),
        path => bail!("the path is {path}"),
    }
}
