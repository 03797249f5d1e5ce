//! Ambiguous messages that programs interpret differently, and unusual messages that they interpret in the same way.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailtest::client::message::header;
use mailtest::client::outside::{DOMAIN, Signing, deliver, signed_bytes};
use mailtest::client::smtp::Reply;
use mailtest::client::{Account, arrival, pgp};

use super::Context;

/// Delivers a signed message from outside.
async fn hand_in(receiver: &Account, text: &str) -> anyhow::Result<Reply> {
    let message = signed_bytes(text.as_bytes().to_vec(), Signing::Good)?;
    let from = format!("someone@{DOMAIN}");
    deliver(&receiver.peer, &from, &receiver.address, &message).await
}

fn encrypted(from: &str) -> anyhow::Result<String> {
    Ok(String::from_utf8(pgp::encrypted(from, 2000).bytes())?)
}

/// Clients show the sender in `From`, so the relay rejects ambiguous `From` fields.
pub(super) async fn two_senders(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let receiver = context.account("a").await?;
    let sender = context.account("a").await?;
    let victim = context.account("a").await?.address;
    for (from, arriving) in [
        (format!("someone@{DOMAIN}"), true),
        (sender.address.clone(), false),
    ] {
        let good = encrypted(&from)?;
        for value in [
            format!("Boss \"<{victim}>(\" <{from}> (c)"),
            format!("<{victim}>, <{from}>"),
            format!("{from} ({victim})"),
            format!("Boss: <{from}>;"),
            format!("=?utf-8?q?=3C{}=3E=2C?= <{from}>", victim.replace('@', "=40")),
            format!("<{victim}>\r\nFrom: <{from}>"),
            format!("<{from}>\r\nFrom : <{victim}>"),
        ] {
            let text = good.replacen(&format!("From: <{from}>"), &format!("From: {value}"), 1);
            ensure!(text != good, "nothing was changed");
            let (reply, refusal) = if arriving {
                (hand_in(&receiver, &text).await?, "500 Failed to parse message: ")
            } else {
                let mut smtp = sender.smtp().await?;
                let reply = smtp.send(&from, &[&receiver.address], text.as_bytes()).await?;
                (reply, "500 Invalid FROM header: ")
            };
            reply
                .expect_start(refusal)
                .with_context(|| format!("From: {value}"))?;
        }
    }
    Ok(())
}

/// Text that some programs show, and that a lenient parser would ignore.
pub(super) async fn cleartext(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let receiver = context.account("b").await?;
    let from = format!("someone@{DOMAIN}");
    let good = encrypted(&from)?;
    let boundary = boundary(&good)?;
    let hidden = |begin: &str| {
        format!(
            "--{begin}\r\nContent-Type: text/plain\r\n\r\nSee you at noon.\r\n--{begin}--\r\n\r\n--{boundary}"
        )
    };
    for (what, text) in [
        (
            "a backslash in the boundary",
            good.replacen(&format!("=\"{boundary}\""), &format!("=\"\\{boundary}\""), 1)
                .replacen(
                    &format!("\r\n\r\n--{boundary}"),
                    &format!("\r\n\r\n{}", hidden(&format!("\\{boundary}"))),
                    1,
                ),
        ),
        (
            "a boundary within a parameter",
            good.replacen("protocol=", "x=\"y;boundary=z\"; protocol=", 1)
                .replacen(
                    &format!("\r\n\r\n--{boundary}"),
                    &format!("\r\n\r\n{}", hidden("z\"")),
                    1,
                ),
        ),
        (
            "a preamble",
            good.replacen(
                &format!("\r\n\r\n--{boundary}"),
                &format!("\r\n\r\nSee you at noon.\r\n--{boundary}"),
                1,
            ),
        ),
        ("an epilogue", format!("{good}See you at noon.\r\n")),
        (
            "an encoding of the whole",
            good.replacen(
                "MIME-Version: 1.0",
                "MIME-Version: 1.0\r\nContent-Transfer-Encoding: base64",
                1,
            ),
        ),
        (
            "a report with text beside its parts",
            good.replacen(
                "From: <someone@",
                "Auto-Submitted: auto-replied\r\nFrom: <mailer-daemon@",
                1,
            )
            .replacen(
                "multipart/encrypted",
                "multipart/report; report-type=delivery-status",
                1,
            ),
        ),
    ] {
        ensure!(text != good, "nothing was changed for {what}");
        let reply = hand_in(&receiver, &text).await?;
        reply.expect_start("523 Encryption Needed").context(what)?;
    }
    hand_in(&receiver, &good).await?.expect(250)?;
    Ok(())
}

/// Gateways re-encode parts, old programs write `X-Foo : bar`, and some add a preamble for readers without MIME.
pub(super) async fn gateways(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let receiver = context.account("b").await?;
    let from = format!("someone@{DOMAIN}");
    let (mut imap, _) = receiver.inbox().await?;
    for kind in ["obsolete", "base64", "quoted-printable", "sentence"] {
        let message = pgp::encrypted(&from, 2000);
        let good = String::from_utf8(message.bytes())?;
        let boundary = boundary(&good)?;
        let (head, rest) = good.split_once("-----BEGIN").context("no armor")?;
        let (armor, end) = rest
            .split_once(&format!("\r\n--{boundary}--"))
            .context("no end")?;
        let armor = format!("-----BEGIN{armor}");
        let (begin, _) = head.rsplit_once("7bit").context("no encoding")?;
        let text = match kind {
            "obsolete" => good.replacen("Subject:", "X-Foo : bar\r\nSubject:", 1),
            "sentence" => good.replacen(
                &format!("\r\n\r\n--{boundary}"),
                &format!(
                    "\r\n\r\nThis is an OpenPGP/MIME encrypted message (RFC 4880 and 3156)\r\n--{boundary}"
                ),
                1,
            ),
            "base64" => {
                let chars = STANDARD.encode(&armor);
                let lines: Vec<_> = chars.as_bytes().chunks(76).map(String::from_utf8_lossy).collect();
                format!(
                    "{begin}base64\r\n\r\n{}\r\n--{boundary}--{end}",
                    lines.join("\r\n")
                )
            }
            _ => format!(
                "{begin}{kind}\r\n\r\n{}\r\n--{boundary}--{end}",
                armor.replace('=', "=3D")
            ),
        };
        hand_in(&receiver, &text).await?.expect(250).context(kind)?;
        let stored = arrival(&mut imap, message.id(), Duration::from_secs(30)).await?;
        if kind == "obsolete" {
            ensure!(header(&stored, "X-Foo") == ["bar"], "the field is missing");
            ensure!(
                String::from_utf8_lossy(&stored).contains("\r\nX-Foo: bar\r\n"),
                "Postfix did not remove the space before the colon"
            );
        }
    }
    Ok(())
}

fn boundary(message: &str) -> anyhow::Result<String> {
    let (_, rest) = message.split_once("boundary=\"").context("no boundary")?;
    let (boundary, _) = rest.split_once('"').context("no end of the boundary")?;
    Ok(boundary.to_owned())
}
