//! `iroh-peers URL RESOLVER`: two endpoints know each other's key and this relay's URL, and nothing else. They connect
//! and send each other as much as takes many packets; both check every byte, and that no other path was taken.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use iroh::dns::DnsResolver;
use iroh::endpoint::{ConnectionType, PathSelection, RecvStream, SendStream};
use iroh::{Endpoint, NodeAddr, NodeId, RelayMap, RelayMode, RelayUrl};

/// Name of the protocol that they speak.
const ALPN: &[u8] = b"chatmail-lab/0";

/// What each sends to the other.
const LENGTH: usize = 256 * 1024;

/// How long all of it may take.
const DEADLINE: Duration = Duration::from_secs(45);

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let (Some(url), Some(resolver), None) = (arguments.next(), arguments.next(), arguments.next()) else {
        bail!("usage: iroh-peers URL RESOLVER, with the resolver as ADDRESS:PORT");
    };
    let url: RelayUrl = url.parse().with_context(|| format!("{url} is no URL"))?;
    let resolver: SocketAddr = resolver
        .parse()
        .with_context(|| format!("{resolver} is not an address and a port"))?;
    tokio::time::timeout(DEADLINE, meet(&url, resolver))
        .await
        .with_context(|| format!("they do not meet within {DEADLINE:?}"))??;
    println!("{LENGTH} bytes each way through {url}");
    Ok(())
}

async fn meet(url: &RelayUrl, resolver: SocketAddr) -> anyhow::Result<()> {
    let (caller, called) = tokio::try_join!(endpoint(url, resolver), endpoint(url, resolver))?;
    // The one who is called has to be at the relay already.
    for endpoint in [&caller, &called] {
        let home = endpoint.home_relay().initialized().await?;
        ensure!(home == *url, "an endpoint's relay is {home}");
    }
    let address = NodeAddr::new(called.node_id()).with_relay_url(url.clone());
    let calls = async {
        let connection = caller.connect(address, ALPN).await.context("calling")?;
        let (send, receive) = connection.open_bi().await?;
        exchange(send, receive, 1, 2).await.context("the caller")?;
        relayed(&caller, called.node_id(), url)?;
        connection.closed().await;
        anyhow::Ok(())
    };
    let answers = async {
        let incoming = called.accept().await.context("nobody calls")?;
        let connection = incoming.await.context("being called")?;
        let (send, receive) = connection.accept_bi().await?;
        exchange(send, receive, 2, 1).await.context("who is called")?;
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
        // No root that iroh trusts has signed for a relay of the lab.
        .insecure_skip_relay_cert_verify(true)
        .path_selection(PathSelection::RelayOnly)
        .bind()
        .await
}

/// Sends one byte over and over, and reads as many of another; each side waits until the other has everything.
async fn exchange(mut send: SendStream, mut receive: RecvStream, mine: u8, theirs: u8) -> anyhow::Result<()> {
    let sending = async {
        send.write_all(&vec![mine; LENGTH]).await?;
        send.finish()?;
        ensure!(send.stopped().await?.is_none(), "the other does not want it");
        Ok(())
    };
    let receiving = async {
        let got = receive.read_to_end(LENGTH).await?;
        ensure!(
            got == vec![theirs; LENGTH],
            "it got {} bytes, or others",
            got.len()
        );
        Ok(())
    };
    tokio::try_join!(sending, receiving)?;
    Ok(())
}

/// Fails when an endpoint knows a path to another one that is not this relay; held to relays, it may name none at all.
fn relayed(endpoint: &Endpoint, other: NodeId, url: &RelayUrl) -> anyhow::Result<()> {
    match endpoint.conn_type(other)?.get()? {
        ConnectionType::None => Ok(()),
        ConnectionType::Relay(relay) if relay == *url => Ok(()),
        path => bail!("the path is {path}"),
    }
}
