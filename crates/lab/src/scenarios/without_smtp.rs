//! A relay where port 25 is blocked, and servers to which a relay delivers without a verified certificate, or not.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::random_name;
use mailtest::client::outside::DOMAIN;
use mailtest::client::{Account, arrival, pgp};
use mailtest::until;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::Context;
use super::delivery::deferred;
use super::metrics::Samples;
use super::signed::{receive, receive_cleartext, tls};
use crate::machine::SystemOf;

const RELAY: &str = "b";
const OTHER: &str = "a";
const NOW: SystemOf<'static> = SystemOf {
    host: "b",
    release: None,
};
/// The same relay with `federation.smtp.enable = false`.
const WITHOUT_SMTP: SystemOf<'static> = SystemOf {
    host: "b-https",
    release: None,
};
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

/// Mail that a relay has delivered to others over this transport, by its own count.
async fn sent(context: &Context, transport: &str) -> anyhow::Result<f64> {
    let metrics = context
        .run(RELAY, &["curl", "-sSf", "http://127.0.0.1:3912/metrics"])
        .await?;
    let labels = format!("transport=\"{transport}\",result=\"sent\"");
    Samples::parse(&metrics)?
        .sum(&["chatmail_remote_deliveries_total"], &labels)
        .with_context(|| format!("no counter of deliveries over {transport}"))
}

/// Without SMTP, relays reach each other over HTTPS, mail to other servers waits with a clear reason, and nothing
/// listens on port 25.
pub(super) async fn blocked(context: &Context) -> anyhow::Result<()> {
    let domain = format!("{}.test", random_name(9));
    publish(context, &domain).await?;
    let (account, other) = (context.account(RELAY).await?, context.account(OTHER).await?);
    context.machines().switch(RELAY, &NOW, &WITHOUT_SMTP).await?;
    let result = without_smtp(context, &account, &other, &domain).await;
    context.machines().switch(RELAY, &WITHOUT_SMTP, &NOW).await?;
    let id = result?;

    // After the option is set back, the waiting message leaves over SMTP.
    let listener = listen(context).await?;
    let certificate = context.machines().certificate(&[DOMAIN.to_owned()])?;
    context.run(RELAY, &["postqueue", "-f"]).await?;
    let got = timeout(WITHIN, receive(&listener, tls(&certificate)?)).await;
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
    let before = sent(context, "smtp").await?;

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
    let acceptor = tls(&wrong)?;
    let (id, got) = tokio::join!(
        submit(&sender, &to),
        timeout(WITHIN, receive(&listener, acceptor))
    );
    let got = got.context("nothing arrives with a wrong certificate")??;
    ensure!(
        String::from_utf8_lossy(&got).contains(&id?),
        "another message arrived"
    );
    let counted = || async { Ok((sent(context, "smtp").await? >= before + 2.0).then_some(())) };
    until(WITHIN, counted)
        .await
        .context("the deliveries over SMTP are not counted")?;

    // A server without TLS and without an exception.
    let domain = format!("{}.test", random_name(9));
    publish(context, &domain).await?;
    let to = format!("someone@{domain}");
    submit(&sender, &to).await?;
    let (queue_id, reason) = tokio::select! {
        deferred = deferred(context, RELAY, &to) => deferred?,
        // Postfix ends the session after EHLO.
        () = async { while receive_cleartext(&listener).await.is_err() {} } => {
            anyhow::bail!("the relay sends without TLS")
        }
    };
    context.run(RELAY, &["postsuper", "-d", &queue_id]).await?;
    ensure!(
        reason.contains("TLS is required, but was not offered"),
        "the reason is not clear: {reason}"
    );
    Ok(())
}
