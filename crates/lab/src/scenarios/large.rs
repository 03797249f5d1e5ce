//! Large messages, of which filtermail-transport holds only a few at once.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::message::random_name;
use mailtest::client::{arrival, pgp};
use mailtest::until;
use tokio::io::AsyncReadExt as _;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::federation::accepted;
use super::isolation::{deliveries, publish, send};
use crate::harness::tls;
use crate::machine::dead_addresses;

const RELAY: &str = "a";
const WITHIN: Duration = Duration::from_secs(60);
/// Bytes of cipher text.
const LARGE: usize = 2 << 20;
/// Large messages that filtermail-transport delivers at once.
const LARGE_AT_ONCE: usize = 8;

/// Large messages to servers of one owner that take them and never respond leave room in memory for those to others, which
/// therefore still go over HTTPS.
pub(super) async fn leave_room(context: &Context) -> anyhow::Result<()> {
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
    take_and_stay_silent(address, tls::acceptor(&certificate, &[])?, &taken, &end).await?;

    let (sender, receiver) = (context.account(RELAY).await?, context.account("b").await?);
    let (mut imap, _) = receiver.inbox().await?;
    let attackers = [context.account(RELAY).await?, context.account(RELAY).await?];
    let beside = async {
        for attacker in &attackers {
            send(attacker, &recipients, LARGE).await?;
        }
        let busy = || async {
            let enough = deliveries(context).await? >= LARGE_AT_ONCE;
            Ok((enough && taken.load(Ordering::Relaxed) > 1).then_some(()))
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
