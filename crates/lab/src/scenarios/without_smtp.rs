//! A relay where port 25 is blocked, and servers to which a relay delivers without a verified certificate, or not.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::random_name;
use mailtest::client::outside::{DOMAIN, Signing, deliver, signed};
use mailtest::client::{Account, arrival, arrival_of, pgp};
use mailtest::until;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::Context;
use super::delivery::deferred;
use super::metrics::Samples;
use super::signed::{receive, receive_cleartext};
use crate::harness::tls;

const RELAY: &str = "b";
const OTHER: &str = "a";
const NOW: &str = "b";
/// The same relay with `federation.smtp.enable = false`.
const WITHOUT_SMTP: &str = "b-https";
const WITHIN: Duration = Duration::from_secs(60);
/// Domains in `federation.smtp.tlsExceptions` of relay b.
const CLEARTEXT: &str = "cleartext.test";
const UNVERIFIED: &str = "unverified.test";

/// Publishes a domain whose mail server is a host of the lab without HTTPS.
async fn publish(context: &Context, domain: &str) -> anyhow::Result<()> {
    let host = context.topology.host;
    let zone = format!("{domain}. 60 IN A {host}\n{domain}. 60 IN MX 10 {DOMAIN}.\n");
    context.publish_outside().await?;
    context.machines().publish(domain, &zone).await
}

async fn listen(context: &Context) -> anyhow::Result<TcpListener> {
    TcpListener::bind((context.topology.host, 25))
        .await
        .context("cannot start a mail server")
}

async fn submit(sender: &Account, to: &str) -> anyhow::Result<String> {
    let message = pgp::encrypted(&sender.address, 2000);
    sender.submit(to, &message).await?.expect(250)?;
    Ok(message.id().to_owned())
}

/// Results of deliveries over SMTP, by the relay's own count.
async fn counted(context: &Context, result: &str) -> anyhow::Result<f64> {
    let metrics = context
        .run(RELAY, &["curl", "-sSf", "http://127.0.0.1:3912/metrics"])
        .await?;
    let labels = format!("transport=\"smtp\",result=\"{result}\"");
    Samples::parse(&metrics)?
        .sum(&["chatmail_remote_deliveries_total"], &labels)
        .with_context(|| format!("no counter of deliveries over SMTP that were {result}"))
}

/// Waits until the relay has counted more than `before`.
async fn more(context: &Context, result: &str, before: f64) -> anyhow::Result<()> {
    let more = || async { Ok((counted(context, result).await? > before).then_some(())) };
    until(WITHIN, more)
        .await
        .with_context(|| format!("a delivery over SMTP that was {result} is not counted"))
}

/// Without SMTP, relays reach each other over HTTPS, mail to other servers waits with a clear reason, and nothing
/// listens on port 25.
pub(super) async fn blocked(context: &Context) -> anyhow::Result<()> {
    let domain = format!("{}.test", random_name(9));
    publish(context, &domain).await?;
    let (account, other) = (context.account(RELAY).await?, context.account(OTHER).await?);
    context.machines().switch(RELAY, NOW, WITHOUT_SMTP).await?;
    let result = without_smtp(context, &account, &other, &domain).await;
    context.machines().switch(RELAY, WITHOUT_SMTP, NOW).await?;
    let id = result?;

    // After the option is set back, the waiting message leaves over SMTP.
    let listener = listen(context).await?;
    let certificate = context.machines().certificate(&[DOMAIN.to_owned()])?;
    context.run(RELAY, &["postqueue", "-f"]).await?;
    let got = timeout(WITHIN, receive(&listener, tls::acceptor(&certificate, &[])?)).await;
    let got = got.context("the waiting message does not leave over SMTP")??;
    ensure!(
        String::from_utf8_lossy(&got).contains(&id),
        "another message arrived"
    );
    account.peer.exchange(DOMAIN).await.context("port 25")?;
    Ok(())
}

/// Returns the Message-ID of a message that waits.
async fn without_smtp(
    context: &Context,
    account: &Account,
    other: &Account,
    domain: &str,
) -> anyhow::Result<String> {
    for (from, to) in [(account, other), (other, account)] {
        let (mut imap, _) = to.inbox().await?;
        let id = submit(from, &to.address).await?;
        arrival(&mut imap, &id, WITHIN).await?;
    }
    let refused = tokio::net::TcpStream::connect(account.peer.port(25)).await;
    ensure!(refused.is_err(), "something listens on port 25");

    let listener = listen(context).await?;
    let to = format!("someone@{domain}");
    let id = submit(account, &to).await?;
    let (_, reason) = tokio::select! {
        deferred = deferred(context, RELAY, &to) => deferred?,
        _ = listener.accept() => anyhow::bail!("the relay connects to port 25"),
    };
    ensure!(
        reason.contains("this relay does not use SMTP"),
        "the reason is not clear: {reason}"
    );
    for (command, line) in [
        ("status", "out over HTTPS, in over HTTPS"),
        ("ports --mx-of _a.test", "HTTPS of the mail servers of _a.test"),
    ] {
        let script = format!("chatmail {command}; exit 0");
        let text = context.run(RELAY, &["sh", "-c", &script]).await?;
        ensure!(text.contains(line), "no {line:?}: {text}");
        ensure!(!text.contains("FAILED") && !text.contains("port 25 of"), "{text}");
    }
    Ok(id)
}

/// Mail goes to servers without TLS, or without a valid certificate, only for the domains of an exception.
pub(super) async fn tls_exceptions(context: &Context) -> anyhow::Result<()> {
    let listener = listen(context).await?;
    let sender = context.account(RELAY).await?;
    let before = counted(context, "sent").await?;

    publish(context, CLEARTEXT).await?;
    let to = format!("someone@{CLEARTEXT}");
    let (id, got) = tokio::join!(
        submit(&sender, &to),
        timeout(WITHIN, receive_cleartext(&listener))
    );
    let got = got.context("nothing arrives without TLS")??;
    ensure!(
        String::from_utf8_lossy(&got).contains(&id?),
        "another message arrived"
    );

    publish(context, UNVERIFIED).await?;
    let to = format!("someone@{UNVERIFIED}");
    let wrong = context.machines().certificate(&["other.test".to_owned()])?;
    let acceptor = tls::acceptor(&wrong, &[])?;
    let (id, got) = tokio::join!(
        submit(&sender, &to),
        timeout(WITHIN, receive(&listener, acceptor))
    );
    let got = got.context("nothing arrives with a wrong certificate")??;
    ensure!(
        String::from_utf8_lossy(&got).contains(&id?),
        "another message arrived"
    );
    more(context, "sent", before + 1.0).await
}

/// A server without TLS, and without an exception, gets no mail. The sender learns why at once, and a report to such a
/// server is discarded.
pub(super) async fn without_tls(context: &Context) -> anyhow::Result<()> {
    let listener = listen(context).await?;
    let sender = context.account(RELAY).await?;
    let (mut imap, _) = sender.inbox().await?;
    let domain = format!("{}.test", random_name(9));
    publish(context, &domain).await?;
    let to = format!("someone@{domain}");
    let before = counted(context, "bounced").await?;
    let attempts = AtomicUsize::new(0);
    submit(&sender, &to).await?;
    let criteria = format!("FROM MAILER-DAEMON BODY {to}");
    let report = tokio::select! {
        report = arrival_of(&mut imap, &criteria, WITHIN) => report.context("no bounce")?,
        () = sessions(&listener, &attempts) => anyhow::bail!("the relay sends without TLS"),
    };
    let report = String::from_utf8_lossy(&report).into_owned();
    // Bounces fold the reason.
    let words = report.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        report.contains("Status: 5.7.4\r\n")
            && words.contains("TLS is required, but was not offered by host"),
        "the bounce does not tell the reason: {report}"
    );
    more(context, "bounced", before).await?;

    let from = format!("someone@{DOMAIN}");
    let nobody = format!("{}@{}", random_name(9), sender.peer.mail_domain);
    let message = signed(&pgp::encrypted(&from, 2000), Signing::Good)?;
    let before = attempts.load(Ordering::Relaxed);
    let reported = async {
        deliver(&sender.peer, &from, &nobody, &message)
            .await?
            .expect(250)?;
        context.queues_empty(&[RELAY], WITHIN).await
    };
    tokio::select! {
        reported = reported => reported?,
        () = sessions(&listener, &attempts) => anyhow::bail!("the relay sends a report without TLS"),
    }
    ensure!(
        attempts.load(Ordering::Relaxed) > before,
        "the relay has not tried to send its report"
    );
    Ok(())
}

/// Counts sessions without TLS, until one of them delivers a message. Postfix ends the others after EHLO.
async fn sessions(listener: &TcpListener, count: &AtomicUsize) {
    while receive_cleartext(listener).await.is_err() {
        count.fetch_add(1, Ordering::Relaxed);
    }
}
