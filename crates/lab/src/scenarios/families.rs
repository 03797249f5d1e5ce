//! Mail servers with addresses of both families, of which one does not answer.

use std::net::{IpAddr, Ipv6Addr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::message::random_name;
use mailtest::client::pgp;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::Context;
use super::signed::receive;
use crate::harness::tls;
use crate::machine::{Ipv6, dead_addresses};

const RELAY: &str = "a";
const WITHIN: Duration = Duration::from_secs(45);
/// Number of messages to each server.
const MESSAGES: usize = 3;
/// Longest delivery if Postfix tries the address that answers first, and otherwise.
const AT_ONCE: Duration = Duration::from_secs(3);
const SOON: Duration = Duration::from_secs(8);

/// The relays of the lab have no IPv6, so Postfix does not use it.
const USE_IPV6: &str = "
for service in smtp prompt; do
    postconf -c /var/lib/postfix/conf -P $service/unix/inet_protocols=all
done
postfix -c /var/lib/postfix/conf reload
";

/// Mail over SMTP waits for a dead address only if there is no IPv4 address that answers, and then for five seconds.
pub(super) async fn dead_one(context: &Context) -> anyhow::Result<()> {
    let addresses = dead_addresses(RELAY, 2)?;
    let [dead, alive] = addresses.as_slice() else {
        anyhow::bail!("no addresses");
    };
    let _ipv6 = Ipv6::new(RELAY)?;
    context.run(RELAY, &["sh", "-ec", USE_IPV6]).await?;
    let played = async {
        let took = deliver(context, (*alive).into(), Ipv6::DEAD, (*alive).into()).await?;
        println!("    IPv6 does not answer: {took:?}");
        ensure!(
            took.iter().skip(1).all(|one| *one < AT_ONCE),
            "IPv6 that does not answer delays mail: {took:?}"
        );
        let took = deliver(context, (*dead).into(), Ipv6::HOST, Ipv6::HOST.into()).await?;
        println!("    IPv4 does not answer: {took:?}");
        ensure!(
            took.iter().skip(1).all(|one| *one < SOON),
            "IPv4 that does not answer delays mail: {took:?}"
        );
        anyhow::Ok(())
    }
    .await;
    context
        .run(RELAY, &["systemctl", "reload", "postfix.service"])
        .await?;
    played
}

/// Delivers messages to a mail server with two addresses, which listens at one. Returns how long each has taken; only
/// the first is tried over HTTPS.
async fn deliver(
    context: &Context,
    ipv4: IpAddr,
    ipv6: Ipv6Addr,
    listens: IpAddr,
) -> anyhow::Result<Vec<Duration>> {
    let domain = format!("{}.test", random_name(9));
    let zone = format!(
        "{domain}. 60 IN MX 10 mx.{domain}.\nmx.{domain}. 60 IN A {ipv4}\nmx.{domain}. 60 IN AAAA {ipv6}\n"
    );
    context.machines().publish(&domain, &zone).await?;
    let certificate = context.machines().certificate(&[format!("mx.{domain}")])?;
    let listener = TcpListener::bind((listens, 25))
        .await
        .context("cannot start a mail server")?;
    let sender = context.account(RELAY).await?;
    let mut took = Vec::new();
    for _ in 0..MESSAGES {
        let message = pgp::encrypted(&sender.address, 2000);
        sender
            .submit(&format!("someone@{domain}"), &message)
            .await?
            .expect(250)?;
        let begin = Instant::now();
        let got = timeout(WITHIN, receive(&listener, tls::acceptor(&certificate, &[])?))
            .await
            .context("nothing arrives")??;
        took.push(begin.elapsed());
        let whole = String::from_utf8_lossy(&got).contains(message.id());
        ensure!(whole, "another message arrived");
    }
    Ok(took)
}
