//! Rules about other domains (`federation.allow`, `federation.block`): whose mail relay b takes, and who gets its mail.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::Message;
use mailtest::client::mxdeliv::{envelope, post};
use mailtest::client::outside::{DOMAIN, SIGNER, signature};
use mailtest::client::{Account, arrival, arrival_of, pgp};

use super::Context;
use super::delivery::deferred;

const RELAY: &str = "b";
const OTHER: &str = "a";
/// A relay without a domain name.
const NAMELESS: &str = "d";
const NOW: &str = "b";
/// The same relay with `federation.block`.
const BLOCKING: &str = "b-rules";
/// The same relay with `federation.allow`.
const ALLOWING: &str = "b-only";
/// A blocked domain whose server does not exist.
const BLOCKED: &str = "blocked.test";
const WITHIN: Duration = Duration::from_secs(60);

fn reply(domain: &str) -> String {
    format!("554 5.7.1 This relay exchanges no mail with {domain}")
}

/// Sends the recipients of one message, and returns the replies.
async fn recipients(sender: &Account, starttls: bool, to: &[&str]) -> anyhow::Result<Vec<String>> {
    let mut smtp = if starttls {
        let mut smtp = sender.peer.submission_starttls().await?;
        smtp.auth_plain(&sender.address, &sender.password)
            .await?
            .expect(235)?;
        smtp
    } else {
        sender.smtp().await?
    };
    smtp.command(&format!("MAIL FROM:<{}> SMTPUTF8", sender.address))
        .await?
        .expect(250)?;
    let mut replies = Vec::new();
    for to in to {
        replies.push(smtp.command(&format!("RCPT TO:<{to}>")).await?.to_string());
    }
    Ok(replies)
}

/// Delivers the same message from elsewhere over SMTP and HTTPS; both get the same reply.
async fn deliver(receiver: &Account, mail_from: &str, message: &[u8]) -> anyhow::Result<String> {
    let (peer, to) = (&receiver.peer, [receiver.address.as_str()]);
    let smtp = peer
        .exchange(DOMAIN)
        .await?
        .send(mail_from, &to, message)
        .await?
        .to_string();
    let (status, https) = post(peer, &envelope(mail_from, &to), message).await?;
    ensure!(
        smtp == https && status == if https.starts_with('2') { 200 } else { 400 },
        "{smtp} over SMTP, {status} {https} over HTTPS"
    );
    Ok(https)
}

/// A message from a domain that signs it.
fn signed_by(domain: &str, message: &Message) -> anyhow::Result<Vec<u8>> {
    let bytes = message.bytes();
    Ok([signature(&bytes, domain, domain, "mail")?, bytes].concat())
}

/// Blocked domains neither send mail to the relay nor get any, in whichever spelling; all others do.
pub(super) async fn blocked(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let (one, other) = (context.account(RELAY).await?, context.account(OTHER).await?);
    // A message that waits when the rule is added.
    let host = context.topology.host;
    let zone = format!("{BLOCKED}. 60 IN A {host}\n{BLOCKED}. 60 IN MX 10 {DOMAIN}.\n");
    context.machines().publish(BLOCKED, &zone).await?;
    let waiting = format!("someone@{BLOCKED}");
    one.submit(&waiting, &pgp::encrypted(&one.address, 2000))
        .await?
        .expect(250)?;
    deferred(context, RELAY, &waiting).await?;

    context.machines().switch(RELAY, NOW, BLOCKING).await?;
    let result = blocking(context, &one, &other, &waiting).await;
    context.machines().switch(RELAY, BLOCKING, NOW).await?;
    result?;

    for (from, to) in [(&one, &other), (&other, &one)] {
        arrives(from, to).await.context("without the rule")?;
    }
    Ok(())
}

async fn arrives(from: &Account, to: &Account) -> anyhow::Result<()> {
    let (mut inbox, _) = to.inbox().await?;
    let message = pgp::encrypted(&from.address, 2000);
    from.submit(&to.address, &message).await?.expect(250)?;
    arrival(&mut inbox, message.id(), WITHIN).await?;
    Ok(())
}

async fn bounced(inbox: &Account, to: &str, reason: &str) -> anyhow::Result<()> {
    let (mut imap, _) = inbox.inbox().await?;
    let report = arrival_of(&mut imap, &format!("FROM MAILER-DAEMON BODY {to}"), WITHIN).await?;
    let report = String::from_utf8_lossy(&report).into_owned();
    // Bounces fold the reason.
    let words = report.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        words.contains(reason),
        "the bounce does not tell the reason: {report}"
    );
    Ok(())
}

async fn blocking(context: &Context, one: &Account, other: &Account, waiting: &str) -> anyhow::Result<()> {
    let reason = |domain: &str| format!("This relay exchanges no mail with {domain}");
    context.run(RELAY, &["postqueue", "-f"]).await?;
    bounced(one, waiting, &reason(BLOCKED))
        .await
        .context("from the queue")?;

    // Submission.
    let nameless = context.peer(NAMELESS)?.mail_domain;
    let spellings = [
        (other.address.clone(), "_a.test"),
        ("someone@_A.Test".to_owned(), "_a.test"),
        ("someone@_a.test.".to_owned(), "_a.test"),
        ("someone@sub.blocked.test".to_owned(), "sub.blocked.test"),
        ("someone@b\u{fc}cher.test".to_owned(), "xn--bcher-kva.test"),
        (format!("someone@{nameless}"), "[198.18.25.14]"),
    ];
    let friend = context.account(RELAY).await?;
    for starttls in [false, true] {
        let to: Vec<&str> = spellings.iter().map(|(to, _)| to.as_str()).collect();
        let replies = recipients(one, starttls, &to).await?;
        for ((to, domain), got) in spellings.iter().zip(&replies) {
            ensure!(*got == reply(domain), "RCPT TO:<{to}>: {got}");
        }
    }
    let mut smtp = one.smtp().await?;
    smtp.command(&format!("MAIL FROM:<{}>", one.address))
        .await?
        .expect(250)?;
    smtp.command(&format!("RCPT TO:<{}>", other.address))
        .await?
        .expect_line(&reply("_a.test"))?;
    for to in [&friend.address, "someone@notblocked.test"] {
        smtp.command(&format!("RCPT TO:<{to}>")).await?.expect(250)?;
    }
    drop(smtp);
    arrives(one, &friend).await.context("on the relay")?;

    // Mail of others.
    let from = |domain: &str| pgp::encrypted(&format!("someone@{domain}"), 2000);
    let good = signed_by(SIGNER, &from(SIGNER))?;
    let bad = signed_by(DOMAIN, &from(DOMAIN))?;
    for (what, mail_from, message, want) in [
        (
            "allowed",
            "someone@signer.test",
            &good,
            "250 2.0.0 Ok: delivered".to_owned(),
        ),
        ("blocked", "someone@outside.test", &bad, reply("outside.test")),
        ("in capitals", "someone@OUTSIDE.Test", &bad, reply("outside.test")),
        (
            "a subdomain",
            "someone@mx.outside.test",
            &bad,
            reply("mx.outside.test"),
        ),
        (
            "a blocked envelope",
            "someone@outside.test",
            &good,
            reply("outside.test"),
        ),
        (
            "a blocked author",
            "someone@signer.test",
            &bad,
            reply("outside.test"),
        ),
        ("a bounce", "", &bad, reply("outside.test")),
        (
            "a bounce of others",
            "",
            &good,
            "250 2.0.0 Ok: delivered".to_owned(),
        ),
    ] {
        let got = deliver(one, mail_from, message).await.context(what)?;
        ensure!(got == want, "{what}: {got}");
    }
    // Before the message.
    let mut exchange = one.peer.exchange(DOMAIN).await?;
    exchange
        .command("MAIL FROM:<someone@outside.test>")
        .await?
        .expect(250)?;
    exchange
        .command(&format!("RCPT TO:<{}>", one.address))
        .await?
        .expect_line(&reply("outside.test"))?;

    // A user of a blocked relay learns why.
    other
        .submit(&one.address, &pgp::encrypted(&other.address, 2000))
        .await?
        .expect(250)?;
    bounced(other, &one.address, &reason("_a.test")).await?;

    let status = context
        .run(RELAY, &["sh", "-c", "chatmail status || true"])
        .await?;
    ensure!(status.contains("5 domain(s) blocked"), "{status}");
    Ok(())
}

/// With a list of allowed domains, all others are excluded.
pub(super) async fn allowed(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let (one, other) = (context.account(RELAY).await?, context.account(OTHER).await?);
    let nameless = context.account(NAMELESS).await?;
    context.machines().switch(RELAY, NOW, ALLOWING).await?;
    let result = allowing(context, &one, &other, &nameless).await;
    context.machines().switch(RELAY, ALLOWING, NOW).await?;
    result
}

async fn allowing(
    context: &Context,
    one: &Account,
    other: &Account,
    nameless: &Account,
) -> anyhow::Result<()> {
    for (from, to) in [
        (one, other),
        (other, one),
        (nameless, one),
        (one, nameless),
        (one, one),
    ] {
        arrives(from, to)
            .await
            .with_context(|| format!("from {} to {}", from.peer.domain, to.peer.domain))?;
    }
    let message = signed_by(DOMAIN, &pgp::encrypted(&format!("someone@{DOMAIN}"), 2000))?;
    for mail_from in ["someone@outside.test", ""] {
        let got = deliver(one, mail_from, &message).await?;
        ensure!(got == reply(DOMAIN), "from <{mail_from}>: {got}");
    }
    let replies = recipients(
        one,
        false,
        &["someone@outside.test", "someone@[198.18.25.13]", &other.address],
    )
    .await?;
    ensure!(
        replies
            == [
                reply("outside.test"),
                reply("[198.18.25.13]"),
                "250 2.1.5 Ok".to_owned()
            ],
        "{replies:?}"
    );
    let status = context
        .run(RELAY, &["sh", "-c", "chatmail status || true"])
        .await?;
    ensure!(status.contains("only with 2 domain(s)"), "{status}");
    Ok(())
}
