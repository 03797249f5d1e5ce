//! Dead, slow or hostile servers do not delay mail to other destinations.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::message::random_name;
use mailtest::client::{Account, arrival, pgp};
use mailtest::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::federation::accepted;
use super::metrics::Samples;
use super::signed::tls;
use crate::bench::stats::Summary;
use crate::machine::dead_addresses;

const RELAY: &str = "a";
const WITHIN: Duration = Duration::from_secs(60);
/// Number of domains with each kind of server.
const DOMAINS: usize = 50;
/// Number of messages to each of these domains.
const MESSAGES: usize = 5;
/// Number of messages to the healthy relay, first alone and then beside the others.
const MEASURED: usize = 300;
/// Deliveries to other servers at once (`connections.remoteDelivery`).
const PROCESSES: usize = 250;
/// Messages that one account can send at once (`messages.burst`).
const BURST: usize = 10;
/// Bytes of cipher text of a small and of a large message.
const SMALL: usize = 2000;
const LARGE: usize = 2 << 20;
/// Large messages that filtermail-transport delivers at once.
const LARGE_AT_ONCE: usize = 8;
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
    let mut sender = context.account(RELAY).await?;
    for number in 0..MEASURED {
        if number % BURST == 0 {
            sender = context.account(RELAY).await?;
        }
        let message = pgp::encrypted(&sender.address, 2000);
        sender.submit(&receiver.address, &message).await?.expect(250)?;
        let begin = Instant::now();
        arrival(imap, message.id(), WITHIN).await?;
        times.push(begin.elapsed());
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
async fn publish(context: &Context, zone: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let text = format!("*.{zone}. 60 IN MX 10 mx.{zone}.\nmx.{zone}. 60 IN A {address}\n");
    context.machines().publish(zone, &text).await
}

/// Sends one message of this size to all recipients.
async fn send(sender: &Account, recipients: &[&str], size: usize) -> anyhow::Result<()> {
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

/// Large messages to servers of one owner that take them and never respond leave room in memory for those to others, which
/// therefore still go over HTTPS.
pub(super) async fn large_mail(context: &Context) -> anyhow::Result<()> {
    let address = *dead_addresses(RELAY, 2)?.last().context("no address")?;
    let zone = format!("{}.test", random_name(9));
    publish(context, &zone, address).await?;
    let recipients: Vec<String> = (0..LARGE_AT_ONCE)
        .map(|number| format!("someone@{number}.{zone}"))
        .collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    let certificate = context.machines().certificate(&[format!("mx.{zone}")])?;
    let taken = Arc::new(AtomicUsize::new(0));
    let end = CancellationToken::new();
    let _end = end.clone().drop_guard();
    take_and_stay_silent(address, tls(&certificate)?, &taken, &end).await?;

    let (sender, receiver) = (context.account(RELAY).await?, context.account("b").await?);
    let (mut imap, _) = receiver.inbox().await?;
    let attackers = [context.account(RELAY).await?, context.account(RELAY).await?];
    let beside = async {
        for attacker in &attackers {
            send(attacker, &recipients, LARGE).await?;
        }
        let busy = || async {
            let count = "pgrep --count --exact smtp || true";
            let count = context.run(RELAY, &["sh", "-c", count]).await?;
            let deliveries = count.trim().parse::<usize>()?;
            Ok((deliveries >= LARGE_AT_ONCE && taken.load(Ordering::Relaxed) > 1).then_some(()))
        };
        until(WITHIN, busy)
            .await
            .context("the large messages do not leave")?;
        let before = accepted(context).await?;
        let message = pgp::encrypted(&sender.address, LARGE);
        let begin = Instant::now();
        sender.submit(&receiver.address, &message).await?.expect(250)?;
        arrival(&mut imap, message.id(), WITHIN).await?;
        let took = begin.elapsed();
        ensure!(
            accepted(context).await? > before,
            "the message did not go over HTTPS, and took {took:?}"
        );
        anyhow::Ok(took)
    }
    .await;
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    let beside = beside.context("a large message to a relay is delayed")?;
    let taken = taken.load(Ordering::Relaxed);
    println!("    {taken} large messages taken without a response, another one arrives after {beside:?}");
    ensure!(
        taken < LARGE_AT_ONCE / 2,
        "servers of one owner have taken {taken} large messages at once"
    );
    Ok(())
}

/// Takes all that clients send over TLS, counts them, and never responds.
async fn take_and_stay_silent(
    address: Ipv4Addr,
    acceptor: TlsAcceptor,
    taken: &Arc<AtomicUsize>,
    end: &CancellationToken,
) -> anyhow::Result<()> {
    let listener = TcpListener::bind((address, 443))
        .await
        .context("cannot start a web server")?;
    let (taken, end) = (Arc::clone(taken), end.clone());
    tokio::spawn(async move {
        while let Some(Ok((stream, _))) = end.run_until_cancelled(listener.accept()).await {
            let (acceptor, taken, end) = (acceptor.clone(), Arc::clone(&taken), end.clone());
            tokio::spawn(async move {
                let Ok(mut stream) = acceptor.accept(stream).await else {
                    return;
                };
                taken.fetch_add(1, Ordering::Relaxed);
                let mut received = vec![0; 64 * 1024];
                while let Some(Ok(1..)) = end.run_until_cancelled(stream.read(&mut received)).await {}
            });
        }
    });
    Ok(())
}

/// One message to more servers that do not answer than Postfix delivers to at once: relays that have replied over HTTPS
/// before do not wait for them.
pub(super) async fn silent_servers(context: &Context) -> anyhow::Result<()> {
    let sender = context.account(RELAY).await?;
    let receiver = context.account("b").await?;
    let (mut imap, _) = receiver.inbox().await?;
    let alone = measure(context, &receiver, &mut imap).await?;

    let address = *dead_addresses(RELAY, 1)?.first().context("no address")?;
    let zone = format!("{}.test", random_name(9));
    publish(context, &zone, address).await?;
    let recipients: Vec<String> = (0..3 * PROCESSES)
        .map(|number| format!("someone@{number}.{zone}"))
        .collect();
    let recipients: Vec<&str> = recipients.iter().map(String::as_str).collect();
    send(&sender, &recipients, SMALL).await?;
    let busy = || async {
        let count = "pgrep --count --exact smtp || true";
        let count = context.run(RELAY, &["sh", "-c", count]).await?;
        Ok((count.trim().parse::<usize>()? >= PROCESSES).then_some(()))
    };
    let beside = async {
        until(WITHIN, busy)
            .await
            .context("the servers do not occupy all processes")?;
        measure(context, &receiver, &mut imap).await
    }
    .await;
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    let beside = beside.context("mail to a relay is delayed")?;
    compare(&alone, &beside, &format!("{} silent servers", 3 * PROCESSES))
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
