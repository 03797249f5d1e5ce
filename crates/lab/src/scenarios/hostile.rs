//! Messages designed to cost as much as possible: other mail still arrives, and the filter stays within its memory.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailtest::client::outside::{DOMAIN, Signing, deliver, signed, signed_as};
use mailtest::client::smtp::Reply;
use mailtest::client::{Account, pgp};
use tokio::net::TcpSocket;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::Context;
use crate::harness::mailboxes;
use crate::machine::dead_addresses;

const RELAY: &str = "a";
const FILTER: &str = "filtermail-incoming.service";
/// Number of good messages that are timed, one after the other.
const GOOD: usize = 8;
/// Concurrent senders of large and of small hostile messages, and their addresses: Postfix accepts 50 connections from
/// each, and the filter three large messages at once.
const LARGE_SENDERS: usize = 12;
const SMALL_SENDERS: usize = 30;
const ADDRESSES: usize = 3;
/// Just below the maximum message size, and just below the size up to which concurrency is not limited.
const LARGE: usize = 48 << 20;
const SMALL: usize = 1_000_000;
/// Factor by which hostile mail may slow down good mail.
const SLOWER: u32 = 20;
const ANYHOW: Duration = Duration::from_secs(20);
/// Number of connections that send mail whose key lookups get no response, and of messages on each.
const TARPIT_SENDERS: usize = 40;
const TARPIT_MESSAGES: usize = 3;
/// A zone whose name server never responds.
const TARPIT: &str = "tarpit.test";
/// Time within which the filter defers a message if all places to wait are taken.
const EARLY: Duration = Duration::from_secs(5);

/// Reply to a message, and the time from its end to the reply.
type Answer = (Reply, Duration);

/// Delivers an encrypted message from outside; returns the time, including the connection.
async fn good(receiver: &Account) -> anyhow::Result<Duration> {
    let from = format!("someone@{DOMAIN}");
    let message = signed(&pgp::encrypted(&from, 2000), Signing::Good)?;
    let begin = Instant::now();
    deliver(&receiver.peer, &from, &receiver.address, &message)
        .await?
        .expect(250)
        .context("good mail beside hostile mail")?;
    Ok(begin.elapsed())
}

/// Returns the longest delivery time of several good messages.
async fn longest(receiver: &Account) -> anyhow::Result<Duration> {
    let mut longest = Duration::ZERO;
    for _ in 0..GOOD {
        longest = longest.max(good(receiver).await?);
    }
    Ok(longest)
}

/// Main process, restarts and memory limit of the filter.
async fn filter(context: &Context) -> anyhow::Result<(u32, String, u64)> {
    let properties = "--property=MainPID,NRestarts,MemoryMax";
    let text = context
        .run(RELAY, &["systemctl", "show", properties, FILTER])
        .await?;
    let value = |key: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .with_context(|| format!("no {key} of {FILTER}"))
    };
    Ok((
        value("MainPID")?.parse()?,
        value("NRestarts")?.to_owned(),
        value("MemoryMax")?.parse()?,
    ))
}

/// Peak memory of a process (proc_pid_status(5)) in bytes.
async fn peak(context: &Context, pid: u32) -> anyhow::Result<u64> {
    let status = context
        .run(RELAY, &["cat", &format!("/proc/{pid}/status")])
        .await?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB"))
        .context("no VmHWM")?
        .parse()?;
    Ok(kib * 1024)
}

/// A body that consists of white space, which canonicalization must process.
fn body(size: usize) -> String {
    let line = "a\t b ".repeat(150) + "\r\n";
    line.repeat(size / line.len())
}

/// The most expensive message within all limits: many fields, and signatures over many names that fail only in the last
/// step of their verification.
fn within_bounds(from: &str, size: usize) -> anyhow::Result<Vec<u8>> {
    use sha2::Digest as _;
    let body = body(size);
    let canonical = "a b".to_owned() + &" a b".repeat(149) + "\r\n";
    let lines = body.len() / (150 * 5 + 2);
    let hash = STANDARD.encode(sha2::Sha256::digest(canonical.repeat(lines)));
    let names = (0..97).map(|n| format!("X-{n}:")).collect::<String>();
    let value = STANDARD.encode([7; 256]);
    let mut message = String::new();
    for _ in 0..19 {
        message.push_str(&format!(
            "DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed; d={DOMAIN}; s=mail;\r\n \
             h=From:{names}From;\r\n bh={hash};\r\n b={value}\r\n"
        ));
    }
    for n in 0..960 {
        message.push_str(&format!("X-{}: {}\r\n", n % 97, "y ".repeat(90)));
    }
    message.push_str(&format!("From: <{from}>\r\nSubject: x\r\n\r\n"));
    Ok((message + &body).into_bytes())
}

/// A header that fills the message: names in `h=`, or fields.
fn header_of(piece: &str, size: usize, begin: &str) -> Vec<u8> {
    (begin.to_owned() + &piece.repeat(size / piece.len()) + "\r\n\r\nbody\r\n").into_bytes()
}

/// Hostile messages with the expected replies.
fn hostile(from: &str, size: usize) -> anyhow::Result<Vec<(Vec<u8>, &'static str)>> {
    let names = "a:".repeat(450) + "\r\n ";
    Ok(vec![
        (
            within_bounds(from, size)?,
            "554 5.7.1 No valid DKIM signature found (Signature verification failed)",
        ),
        (
            header_of(
                &names,
                size,
                &format!("From: <{from}>\r\nDKIM-Signature: v=1; h="),
            ),
            "552 5.3.4 Message header exceeds 256 KiB",
        ),
        (
            header_of("X: y\r\n", size, &format!("From: <{from}>\r\n")),
            "552 5.3.4 Message header exceeds 256 KiB",
        ),
        (
            pgp::encrypted(from, size * 3 / 4).bytes(),
            "554 5.7.1 No valid DKIM signature found (No DKIM signature found)",
        ),
    ])
}

/// Sends the most expensive messages at the highest concurrency.
pub(super) async fn messages(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let (receiver, open) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let marker = format!("{}/enforceE2EEincoming", mailboxes::of(&open));
    context.run(RELAY, &["rm", &marker]).await?;
    let (pid, restarts, limit) = filter(context).await?;
    let calm = longest(&receiver).await?;

    let from = format!("someone@{DOMAIN}");
    // The first one is not the host's.
    let addresses = dead_addresses(RELAY, ADDRESSES + 1)?;
    let stop = CancellationToken::new();
    let mut senders = JoinSet::new();
    for (number, size) in [(LARGE_SENDERS, LARGE), (SMALL_SENDERS, SMALL)] {
        let messages = std::sync::Arc::new(hostile(&from, size)?);
        for (sender, address) in (0..number).zip(addresses.iter().skip(1).cycle().copied()) {
            let (messages, stop) = (messages.clone(), stop.clone());
            let (from, open) = (from.clone(), open.clone());
            senders.spawn(async move {
                let mut sent = 0;
                for (message, reply) in messages.iter().cycle().skip(sender) {
                    if stop.is_cancelled() {
                        break;
                    }
                    let socket = TcpSocket::new_v4()?;
                    socket.bind((address, 0).into())?;
                    let stream = socket.connect(open.peer.port(25)).await?;
                    let mut smtp = open.peer.exchange_over(stream, DOMAIN).await?;
                    smtp.send(&from, &[&open.address], message)
                        .await?
                        .expect_line(reply)?;
                    sent += 1;
                }
                anyhow::Ok(sent)
            });
        }
    }
    let beside = longest(&receiver).await;
    stop.cancel();
    let mut sent = 0;
    while let Some(done) = senders.join_next().await {
        sent += done??;
    }
    let beside = beside?;
    let peak = peak(context, pid).await?;
    println!(
        "    {sent} hostile messages; good mail: {calm:?} before, {beside:?} meanwhile; the filter used {} of {} MiB",
        peak >> 20,
        limit >> 20
    );
    ensure!(
        filter(context).await? == (pid, restarts, limit),
        "the filter was restarted"
    );
    ensure!(peak < limit, "the filter used {peak} bytes of MemoryMax={limit}");
    ensure!(
        beside < calm * SLOWER + ANYHOW,
        "good mail takes {beside:?} during hostile mail, and {calm:?} without"
    );
    Ok(())
}

/// Sends messages with a key in a zone whose name server never responds.
async fn tarpit(receiver: Account, domain: String) -> anyhow::Result<Answer> {
    let from = format!("someone@{domain}");
    let message = signed_as(&pgp::encrypted(&from, 2000), &domain, "mail")?;
    let begin = Instant::now();
    let reply = deliver(&receiver.peer, &from, &receiver.address, &message).await?;
    Ok((reply, begin.elapsed()))
}

/// Name servers do not respond to key lookups.
pub(super) async fn tarpits(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    context.machines().publish(TARPIT, "").await?;
    let receiver = context.account(RELAY).await?;
    let calm = longest(&receiver).await?;
    let mut senders = JoinSet::new();
    for sender in 0..TARPIT_SENDERS {
        let receiver = receiver.clone();
        senders.spawn(async move {
            let mut answers = Vec::new();
            for number in 0..TARPIT_MESSAGES {
                let domain = format!("t{sender}-{number}.{TARPIT}");
                answers.push(tarpit(receiver.clone(), domain).await?);
            }
            anyhow::Ok(answers)
        });
    }
    let beside = longest(&receiver).await?;
    let mut early = 0;
    while let Some(answers) = senders.join_next().await {
        for (reply, took) in answers?? {
            reply.expect_line("451 4.7.5 DKIM key lookup failed, try again later")?;
            early += usize::from(took < EARLY);
        }
    }
    let all = TARPIT_SENDERS * TARPIT_MESSAGES;
    println!("    {early} of {all} deferred early; good mail: {calm:?} before, {beside:?} meanwhile");
    ensure!(
        early * 4 >= all * 3,
        "the relay deferred only {early} of {all} early"
    );
    ensure!(
        beside < calm * 2 + ANYHOW,
        "good mail takes {beside:?} during key lookups without a response, and {calm:?} without"
    );
    Ok(())
}
