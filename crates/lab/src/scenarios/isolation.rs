//! Dead, slow or hostile servers do not delay mail to other destinations.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::message::random_name;
use mailtest::client::outside::DOMAIN;
use mailtest::client::{Account, arrival, pgp};
use mailtest::until;
use tokio::io::AsyncWriteExt as _;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::metrics::Samples;
use super::signed::{receive, receive_over};
use crate::bench::stats::Summary;
use crate::harness::tls;
use crate::machine::dead_addresses;

const RELAY: &str = "a";
const WITHIN: Duration = Duration::from_secs(60);
/// Number of domains with each kind of server.
const DOMAINS: usize = 50;
/// Number of messages to each of these domains.
const MESSAGES: usize = 5;
/// Number of messages to the healthy relay, first alone and then beside the others.
const MEASURED: usize = 300;
/// Number of messages to a mail server that takes one at a time.
const FEW: usize = 100;
/// Deliveries to other servers at once (`connections.remoteDelivery`).
const PROCESSES: usize = 250;
/// Messages that one account can send at once (`messages.burst`).
const BURST: usize = 10;
/// Bytes of cipher text of a small message.
const SMALL: usize = 2000;
/// Shorter times count as this: they depend more on the load of this machine than on the relay.
const NOISE: Duration = Duration::from_millis(100);

/// How a server fails.
#[derive(Debug, Clone, Copy)]
enum Failing {
    /// It does not respond to any packet.
    Connect,
    /// It sends nothing after its greeting.
    Greeting,
    /// It resets each connection.
    Reset,
    /// It rejects each session with a temporary error.
    Deferral,
}

impl Failing {
    const ALL: [Self; 4] = [Self::Connect, Self::Greeting, Self::Reset, Self::Deferral];

    /// Returns the zone with its domains.
    fn zone(self) -> String {
        format!("dead-{self:?}.test").to_ascii_lowercase()
    }

    /// Handles a connection in this way.
    async fn serve(self, mut stream: TcpStream, end: CancellationToken) {
        match self {
            Self::Connect => {}
            Self::Greeting => {
                let _ = stream.write_all(b"220 dead.test ESMTP\r\n").await;
                end.cancelled().await;
            }
            Self::Reset => {
                let _ = stream.set_zero_linger();
            }
            Self::Deferral => {
                let _ = stream.write_all(b"421 4.3.2 Come back later\r\n").await;
            }
        }
    }
}

/// Listens on both ports of an address until `end`.
async fn fail(failing: Failing, address: Ipv4Addr, end: &CancellationToken) -> anyhow::Result<()> {
    for port in [25, 443] {
        let listener = TcpListener::bind((address, port))
            .await
            .with_context(|| format!("cannot listen on {address}:{port}"))?;
        let end = end.clone();
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    () = end.cancelled() => return,
                    accepted = listener.accept() => {
                        if let Ok((stream, _)) = accepted {
                            tokio::spawn(failing.serve(stream, end.clone()));
                        }
                    }
                }
            }
        });
    }
    Ok(())
}

/// Measures the time from the acceptance of a message to its arrival at the healthy relay.
async fn measure(context: &Context, receiver: &Account, imap: &mut Imap) -> anyhow::Result<Summary> {
    let mut times = Vec::with_capacity(MEASURED);
    while times.len() < MEASURED {
        let sender = context.account(RELAY).await?;
        let mut smtp = sender.smtp().await?;
        for _ in 0..BURST {
            let message = pgp::encrypted(&sender.address, SMALL);
            smtp.send(&sender.address, &[&receiver.address], &message.bytes())
                .await?
                .expect(250)?;
            let begin = Instant::now();
            arrival(imap, message.id(), WITHIN).await?;
            times.push(begin.elapsed());
        }
    }
    Summary::of(times).context("nothing was measured")
}

/// Checks that failing servers have not doubled the 99th percentile.
fn compare(alone: &Summary, beside: &Summary, others: &str) -> anyhow::Result<()> {
    println!("    alone {}; beside {others} {}", times(alone), times(beside));
    ensure!(
        beside.p99 <= 2 * alone.p99.max(NOISE),
        "mail takes {} alone, and {} beside {others}",
        times(alone),
        times(beside)
    );
    Ok(())
}

fn times(summary: &Summary) -> String {
    format!(
        "p50 {:?}, p99 {:?}, max {:?}",
        summary.p50, summary.p99, summary.max
    )
}

/// Publishes a zone in which every name has its mail server at this address.
pub(super) async fn publish(context: &Context, zone: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let text = format!("*.{zone}. 60 IN MX 10 mx.{zone}.\nmx.{zone}. 60 IN A {address}\n");
    context.machines().publish(zone, &text).await
}

/// Sends one message of this size to all recipients.
pub(super) async fn send(sender: &Account, recipients: &[&str], size: usize) -> anyhow::Result<()> {
    let message = pgp::encrypted(&sender.address, size).bytes();
    sender
        .smtp()
        .await?
        .send(&sender.address, recipients, &message)
        .await?
        .expect(250)?;
    Ok(())
}

/// Sends a thousand messages to two hundred domains whose servers fail in four ways.
async fn dead_mail(context: &Context, sender: &Account, addresses: &[Ipv4Addr]) -> anyhow::Result<()> {
    let mut recipients = Vec::new();
    for (failing, address) in Failing::ALL.into_iter().zip(addresses) {
        let zone = failing.zone();
        publish(context, &zone, *address).await?;
        recipients.extend((0..DOMAINS).map(|number| format!("someone@{number}.{zone}")));
    }
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    for _ in 0..MESSAGES {
        send(sender, &recipients, SMALL).await?;
    }
    Ok(())
}

pub(super) async fn dead_destinations(context: &Context) -> anyhow::Result<()> {
    let sender = context.account(RELAY).await?;
    let receiver = context.account("b").await?;
    let (mut imap, _) = receiver.inbox().await?;
    let alone = measure(context, &receiver, &mut imap).await?;

    let addresses = dead_addresses(RELAY, Failing::ALL.len())?;
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    for (failing, address) in Failing::ALL.into_iter().zip(&addresses).skip(1) {
        fail(failing, *address, &end).await?;
    }
    dead_mail(context, &sender, &addresses).await?;
    let beside = measure(context, &receiver, &mut imap).await;
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    let beside = beside.context("mail to the healthy relay is delayed")?;
    compare(&alone, &beside, "dead servers")
}

/// Sends one message to more servers that do not answer than Postfix delivers to at once.
async fn occupy(context: &Context, sender: &Account) -> anyhow::Result<()> {
    let address = *dead_addresses(RELAY, 1)?.first().context("no address")?;
    let zone = format!("{}.test", random_name(9));
    publish(context, &zone, address).await?;
    send_to_all(sender, &zone).await?;
    occupied(context).await
}

/// Sends one message to more domains of a zone than Postfix delivers to at once.
async fn send_to_all(sender: &Account, zone: &str) -> anyhow::Result<()> {
    let recipients: Vec<String> = (0..3 * PROCESSES)
        .map(|number| format!("someone@{number}.{zone}"))
        .collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    send(sender, &recipients, SMALL).await
}

/// Waits until all processes of one transport deliver.
async fn occupied(context: &Context) -> anyhow::Result<()> {
    let busy = || async { Ok((deliveries(context).await? >= PROCESSES).then_some(())) };
    until(WITHIN, busy)
        .await
        .context("the servers do not occupy all processes")
}

/// Number of Postfix's processes that deliver to other servers.
pub(super) async fn deliveries(context: &Context) -> anyhow::Result<usize> {
    let count = "pgrep --count --exact smtp || true";
    let count = context.run(RELAY, &["sh", "-c", count]).await?;
    Ok(count.trim().parse()?)
}

/// Relays that have accepted mail before do not wait for servers that do not answer.
pub(super) async fn silent_servers(context: &Context) -> anyhow::Result<()> {
    let sender = context.account(RELAY).await?;
    let receiver = context.account("b").await?;
    let (mut imap, _) = receiver.inbox().await?;
    let alone = measure(context, &receiver, &mut imap).await?;

    let beside = async {
        occupy(context, &sender).await?;
        measure(context, &receiver, &mut imap).await
    }
    .await;
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    let beside = beside.context("mail to a relay is delayed")?;
    compare(&alone, &beside, &format!("{} silent servers", 3 * PROCESSES))
}

/// The same for a mail server without HTTPS that has accepted mail before.
pub(super) async fn mail_server(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let domain = format!("{}.test", random_name(9));
    let host = context.topology.host;
    let zone = format!("{domain}. 60 IN A {host}\n{domain}. 60 IN MX 10 {DOMAIN}.\n");
    context.machines().publish(&domain, &zone).await?;
    let server = MailServer {
        listener: TcpListener::bind((host, 25))
            .await
            .context("cannot start a mail server")?,
        acceptor: tls::acceptor(&context.machines().certificate(&[DOMAIN.to_owned()])?, &[])?,
        address: format!("someone@{domain}"),
    };
    let alone = server.measure(context).await?;
    let sender = context.account(RELAY).await?;
    let beside = async {
        occupy(context, &sender).await?;
        server.measure(context).await
    }
    .await;
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    let beside = beside.context("mail to a mail server is delayed")?;
    compare(&alone, &beside, &format!("{} silent servers", 3 * PROCESSES))
}

/// The same for servers of one owner that do not answer after each of them has accepted a message.
pub(super) async fn fall_silent(context: &Context) -> anyhow::Result<()> {
    let receiver = context.account("b").await?;
    let (mut imap, _) = receiver.inbox().await?;
    let alone = measure(context, &receiver, &mut imap).await?;

    let zone = format!("{}.test", random_name(9));
    let address = *dead_addresses(RELAY, 2)?.last().context("no address")?;
    publish(context, &zone, address).await?;
    let listener = TcpListener::bind((address, 25))
        .await
        .with_context(|| format!("cannot listen on {address}:25"))?;
    let certificate = context.machines().certificate(&[format!("mx.{zone}")])?;
    let acceptor = tls::acceptor(&certificate, &[])?;
    let (silent, end) = (CancellationToken::new(), CancellationToken::new());
    let _end = end.clone().drop_guard();
    let serving = silent.clone();
    tokio::spawn(end.clone().run_until_cancelled_owned(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (acceptor, silent, end) = (acceptor.clone(), serving.is_cancelled(), end.clone());
            tokio::spawn(async move {
                if silent {
                    Failing::Greeting.serve(stream, end).await;
                } else {
                    let _ = receive_over(stream, acceptor).await;
                }
            });
        }
    }));

    let sender = context.account(RELAY).await?;
    let beside = async {
        send_to_all(&sender, &zone).await?;
        let delivered = || async { Ok(context.machines().queue(RELAY).await?.is_empty().then_some(())) };
        until(2 * WITHIN, delivered)
            .await
            .context("the servers have not accepted their messages")?;
        silent.cancel();
        send_to_all(&sender, &zone).await?;
        occupied(context).await?;
        measure(context, &receiver, &mut imap).await
    }
    .await;
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    let beside = beside.context("mail to a relay is delayed")?;
    compare(
        &alone,
        &beside,
        &format!("{} servers that fell silent", 3 * PROCESSES),
    )
}

/// A mail server without HTTPS.
struct MailServer {
    listener: TcpListener,
    acceptor: TlsAcceptor,
    address: String,
}

impl MailServer {
    /// Measures the time from the acceptance of a message by the relay to that by this server.
    async fn measure(&self, context: &Context) -> anyhow::Result<Summary> {
        let mut times = Vec::with_capacity(FEW);
        let mut sender = context.account(RELAY).await?;
        for number in 0..FEW {
            if number % BURST == 0 {
                sender = context.account(RELAY).await?;
            }
            let message = pgp::encrypted(&sender.address, SMALL);
            let arrives = async {
                let got = timeout(WITHIN, receive(&self.listener, self.acceptor.clone())).await??;
                let whole = String::from_utf8_lossy(&got).contains(message.id());
                ensure!(whole, "another message arrived");
                anyhow::Ok(Instant::now())
            };
            let sent = async {
                sender.submit(&self.address, &message).await?.expect(250)?;
                anyhow::Ok(Instant::now())
            };
            let (sent, arrived) = tokio::try_join!(sent, arrives)?;
            times.push(arrived.saturating_duration_since(sent));
        }
        Summary::of(times).context("nothing was measured")
    }
}

/// When a server does not answer, Postfix defers the messages to its domain that wait for their turn without further
/// attempts, so that their number does not matter to other mail.
pub(super) async fn suspended(context: &Context) -> anyhow::Result<()> {
    let sender = context.account(RELAY).await?;
    let address = *dead_addresses(RELAY, 1)?.first().context("no address")?;
    let domain = format!("{}.test", random_name(9));
    let zone = format!("{domain}. 60 IN A {address}\n{domain}. 60 IN MX 10 {domain}.\n");
    context.machines().publish(&domain, &zone).await?;
    let before = attempts(context).await?;
    let to = format!("someone@{domain}");
    for _ in 0..BURST {
        let message = pgp::encrypted(&sender.address, 2000);
        sender.submit(&to, &message).await?.expect(250)?;
    }
    let all_deferred = || async {
        let queue = context.machines().queue(RELAY).await?;
        let reasons: Vec<String> = queue
            .into_iter()
            .flat_map(|queued| queued.recipients)
            .filter(|one| one.address == to)
            .filter_map(|one| one.delay_reason)
            .collect();
        Ok((reasons.len() == BURST).then_some(reasons))
    };
    let reasons = until(2 * WITHIN, all_deferred)
        .await
        .context("the messages are not deferred")?;
    let attempts = attempts(context).await? - before;
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    let suspended = reasons
        .iter()
        .filter(|reason| reason.contains("delivery temporarily suspended"))
        .count();
    println!("    {attempts} attempts, {suspended} messages deferred without one");
    ensure!(
        suspended > 0 && attempts < BURST as f64,
        "{attempts} attempts for {BURST} messages; reasons: {reasons:?}"
    );
    Ok(())
}

/// Number of attempts to deliver over HTTPS that have failed.
async fn attempts(context: &Context) -> anyhow::Result<f64> {
    let address = context.topology.relay(RELAY).context("no relay")?.ipv4;
    let url = format!("http://{address}:3912/metrics");
    let text = context.run(RELAY, &["curl", "-sSf", &url]).await?;
    Samples::parse(&text)?
        .sum(&["chatmail_https_deliveries_total"], "result=\"failed\"")
        .context("no counter of failed attempts")
}
