//! The relay accepts outside mail only with a DKIM signature of the domain in From.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::{Message, header};
use mailtest::scenarios::policy::ENCRYPTION_NEEDED;

use mailtest::client::outside::{DOMAIN, SIGNER, Signing, deliver, public_key, signed, signed_as, zone};
use mailtest::client::smtp::Reply;
use mailtest::client::{arrival, pgp};

use super::Context;
use crate::harness::mailboxes;

/// Delivers an encrypted message to relay a.
async fn hand_in(context: &Context, signing: Signing) -> anyhow::Result<Reply> {
    context.publish_outside().await?;
    let receiver = context.account("a").await?;
    let from = format!("someone@{DOMAIN}");
    let message = signed(&pgp::encrypted(&from, 2000), signing)?;
    deliver(&receiver.peer, &from, &receiver.address, &message).await
}

pub(super) async fn unsigned(context: &Context) -> anyhow::Result<()> {
    let reply = hand_in(context, Signing::None).await?;
    reply.expect_line("554 5.7.1 No valid DKIM signature found (No DKIM signature found)")
}

async fn badly_signed(context: &Context, signing: Signing) -> anyhow::Result<()> {
    let reply = hand_in(context, signing).await?;
    reply.expect_start("554 5.7.1 No valid DKIM signature found (")?;
    ensure!(
        reply.to_string().ends_with(')'),
        "the reason is not in parentheses: {reply}"
    );
    Ok(())
}

pub(super) async fn other_domain(context: &Context) -> anyhow::Result<()> {
    badly_signed(context, Signing::OtherDomain).await
}

pub(super) async fn wrong_key(context: &Context) -> anyhow::Result<()> {
    badly_signed(context, Signing::WrongKey).await
}

pub(super) async fn body_altered(context: &Context) -> anyhow::Result<()> {
    badly_signed(context, Signing::BodyAltered).await
}

pub(super) async fn delivered(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    // Relay c has a certificate from a CA, which the sender verifies.
    for relay in ["a", "c"] {
        let receiver = context.account(relay).await?;
        let from = format!("someone@{DOMAIN}");
        let message = pgp::encrypted(&from, 2000);
        let bytes = signed(&message, Signing::Good)?;
        deliver(&receiver.peer, &from, &receiver.address, &bytes)
            .await?
            .expect(250)?;
        let (mut imap, _) = receiver.inbox().await?;
        let stored = arrival(&mut imap, message.id(), Duration::from_secs(30)).await?;
        ensure!(
            header(&stored, "From") == [format!("<{from}>")],
            "the sender was changed"
        );
        ensure!(
            header(&stored, "DKIM-Signature").is_empty(),
            "the stored message contains the signature"
        );
    }
    Ok(())
}

/// Domain with all kinds of records at its selectors.
const KEYS: &str = "keys.test";

/// Key records: valid ones in the forms that administrators write, and invalid ones.
pub(super) async fn key_records(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let (key, other) = (public_key(DOMAIN)?, public_key(SIGNER)?);
    let (first, second) = key.split_at_checked(180).unwrap_or((&key, ""));
    // Selector, records, and why they are invalid.
    let cases: &[(&str, &[String], Option<&str>)] = &[
        (
            "plain",
            &[format!("v=DKIM1; k=rsa; s=email; t=s; h=sha256; p={key}")],
            None,
        ),
        ("short", &[format!("p={first} {second}")], None),
        ("std", &[format!("v=DKIM1; k=rsa; p={first}\" \"{second}")], None),
        (
            "std2",
            &[format!("\"v=DKIM1; k=rsa; p={first}\" \"{second}\"")],
            None,
        ),
        (
            "two",
            &[
                "v=spf1 -all".to_owned(),
                format!("v=DKIM1; p={other}"),
                format!("v=DKIM1; p={key}"),
            ],
            None,
        ),
        (
            "sha1",
            &[format!("v=DKIM1; h=sha1; p={key}")],
            Some("Key is not for SHA-256"),
        ),
        (
            "tlsrpt",
            &[format!("v=DKIM1; s=tlsrpt; p={key}")],
            Some("Key is not for email"),
        ),
        (
            "test",
            &[format!("v=DKIM1; t=y; p={key}")],
            Some("Key is for testing only"),
        ),
        ("revoked", &["v=DKIM1; p=".to_owned()], Some("Key is revoked")),
        (
            "other",
            &[format!("v=DKIM1; p={other}")],
            Some("Signature verification failed"),
        ),
        // These do not form a valid DNS name.
        ("a..b", &[], Some("Malformed selector or domain")),
        (&"x".repeat(64), &[], Some("Malformed selector or domain")),
    ];
    let records: Vec<(&str, &str)> = cases
        .iter()
        .flat_map(|(selector, records, _)| records.iter().map(|record| (*selector, record.as_str())))
        .collect();
    let text = zone(KEYS, context.topology.host.into(), &records);
    context.machines().publish(KEYS, &text).await?;
    let receiver = context.account("a").await?;
    let from = format!("someone@{KEYS}");
    for (selector, _, refused) in cases {
        let message = signed_as(&pgp::encrypted(&from, 2000), KEYS, selector)?;
        let reply = deliver(&receiver.peer, &from, &receiver.address, &message).await?;
        match refused {
            None => ensure!(reply.code == 250, "{selector}: {reply}"),
            Some(reason) => reply
                .expect_line(&format!("554 5.7.1 No valid DKIM signature found ({reason})"))
                .with_context(|| format!("selector {selector}"))?,
        }
    }
    Ok(())
}

pub(super) async fn cleartext(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let receiver = context.account("b").await?;
    let from = format!("newsletter@{}", DOMAIN);
    let message = Message::cleartext(&from, &receiver.address, "News", "Hello everybody.");
    let signed = signed(&message, Signing::Good)?;
    let reply = deliver(&receiver.peer, &from, &receiver.address, &signed).await?;
    reply.expect_line(ENCRYPTION_NEEDED)?;

    let marker = format!("{}/enforceE2EEincoming", mailboxes::of(&receiver));
    context.run("b", &["rm", &marker]).await?;
    deliver(&receiver.peer, &from, &receiver.address, &signed)
        .await?
        .expect(250)?;
    let (mut imap, _) = receiver.inbox().await?;
    let stored = arrival(&mut imap, message.id(), Duration::from_secs(30)).await?;
    ensure!(
        String::from_utf8_lossy(&stored).contains("Hello everybody."),
        "the text is missing"
    );
    Ok(())
}
