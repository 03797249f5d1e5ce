//! The relay handles mail over HTTPS like mail on port 25.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::{Message, random_name};
use mailtest::client::mxdeliv::{connect, envelope, head, post, said, send};
use mailtest::client::outside::{DOMAIN, Signing, signed, signed_bytes};
use mailtest::client::{Account, Peer, arrival, http, pgp};
use mailtest::until;

use super::Context;

const RELAY: &str = "a";
const WITHIN: Duration = Duration::from_secs(60);
/// Maximum recipients per request, and too many: some versions of nginx accept at most 1000 header fields.
const MANY: usize = 900;
const TOO_MANY: usize = 1001;
/// Maximum message size (`messages.maxSize`).
const MAX_SIZE: usize = 52_428_800;
/// Connections that Postfix accepts per address (`smtpd_client_connection_count_limit`).
const CONNECTIONS: usize = 50;

/// A message with its envelope.
struct Case {
    what: &'static str,
    from: String,
    to: Vec<String>,
    message: Vec<u8>,
    /// Beginning of the reply.
    reply: &'static str,
}

/// Returns messages of every kind, valid and invalid, with the expected replies.
fn cases(context: &Context, receiver: &Account) -> anyhow::Result<Vec<Case>> {
    let from = format!("someone@{DOMAIN}");
    let to = || vec![receiver.address.clone()];
    let case = |what, message, reply| Case {
        what,
        from: from.clone(),
        to: to(),
        message,
        reply,
    };
    let encrypted = || pgp::encrypted(&from, 2000);
    let sign = |signing| signed(&encrypted(), signing);
    let cleartext = Message::cleartext(&from, &receiver.address, "News", "Hello everybody.");
    let text = |message: &Message| String::from_utf8(message.bytes());
    let with_dots = text(&encrypted())?.replacen("\r\n\r\n", "\r\n\r\n..\r\n.\r\n.x\r\n", 1);
    let elsewhere = format!("{}@{}", random_name(9), context.peer("b")?.mail_domain);
    let literal = pgp::encrypted("someone@[192.0.2.7]", 2000);
    let accepted = "250 2.0.0 Ok: delivered";
    let no_dkim = "554 5.7.1 No valid DKIM signature found (";
    Ok(vec![
        case("good mail", sign(Signing::Good)?, accepted),
        case("unsigned", sign(Signing::None)?, no_dkim),
        case("signed by another", sign(Signing::OtherDomain)?, no_dkim),
        case("signed with a wrong key", sign(Signing::WrongKey)?, no_dkim),
        case("changed on the way", sign(Signing::BodyAltered)?, no_dkim),
        case(
            "cleartext",
            signed(&cleartext, Signing::Good)?,
            "523 Encryption Needed: Invalid Unencrypted Mail",
        ),
        case(
            "no header",
            b"\r\nbody\r\n".to_vec(),
            "500 Failed to parse message",
        ),
        case("nothing", Vec::new(), "500 Failed to parse message"),
        case(
            "a header without end",
            format!("From: <{from}>\r\n{}", "X: y\r\n".repeat(60_000)).into_bytes(),
            "552 5.3.4 Message header exceeds 256 KiB",
        ),
        case(
            "lines that begin with dots",
            signed_bytes(with_dots.into_bytes(), Signing::Good)?,
            "523 Encryption Needed: Invalid Unencrypted Mail",
        ),
        case(
            "lines that end with LF",
            signed_bytes(
                text(&encrypted())?.replace("\r\n", "\n").into_bytes(),
                Signing::None,
            )?,
            no_dkim,
        ),
        case(
            "an end of data within, and commands",
            [
                sign(Signing::None)?,
                format!("\n.\nMAIL FROM:<{from}>\nRCPT TO:<{}>\nDATA\n", receiver.address).into_bytes(),
            ]
            .concat(),
            "523 Encryption Needed: Invalid Unencrypted Mail",
        ),
        case(
            "the last line has no end",
            {
                let mut message = sign(Signing::None)?;
                message.truncate(message.len() - 2);
                message
            },
            no_dkim,
        ),
        Case {
            from: String::new(),
            ..case("from the null sender", sign(Signing::Good)?, accepted)
        },
        Case {
            from: "someone@[192.0.2.7]".to_owned(),
            ..case(
                "from an address literal of somebody else",
                literal.bytes(),
                "500 Invalid FROM domain literal: 192.0.2.7 does not match origin IP 198.18.25.",
            )
        },
        Case {
            to: vec![elsewhere.clone()],
            ..case("for another relay", sign(Signing::Good)?, "554 5.7.1 <")
        },
        Case {
            to: vec![receiver.address.clone(), elsewhere],
            ..case("for another relay, too", sign(Signing::Good)?, "554 5.7.1 <")
        },
        Case {
            from: "no address".to_owned(),
            ..case(
                "from nobody",
                sign(Signing::Good)?,
                "501 5.1.7 Bad sender address syntax",
            )
        },
    ])
}

/// Delivers the same messages over HTTPS and SMTP.
pub(super) async fn same_verdict(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let receiver = context.account(RELAY).await?;
    let peer = &receiver.peer;
    for case in cases(context, &receiver)? {
        let to: Vec<&str> = case.to.iter().map(String::as_str).collect();
        let smtp = peer
            .exchange(DOMAIN)
            .await?
            .send(&case.from, &to, &case.message)
            .await?
            .to_string();
        let (status, https) = post(peer, &envelope(&case.from, &to), &case.message).await?;
        println!("    {}: {status} {https}", case.what);
        ensure!(
            https.starts_with(case.reply),
            "{}: expected {}, over HTTPS {https}",
            case.what,
            case.reply
        );
        ensure!(
            status == if https.starts_with('2') { 200 } else { 400 },
            "{}: status {status}",
            case.what
        );
        // Postfix shortens the text of a syntax error if it cannot parse the address.
        let same = smtp == https || case.reply.starts_with("501 ");
        ensure!(
            same && smtp.get(..3) == https.get(..3),
            "{}: {smtp} over SMTP, {https} over HTTPS",
            case.what
        );
    }
    Ok(())
}

/// Encrypted messages arrive unchanged, including a large one and one for several recipients.
pub(super) async fn arrives(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let (one, other) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let from = format!("someone@{DOMAIN}");
    for size in [2000, 36_000_000] {
        let message = pgp::encrypted(&from, size);
        let bytes = signed(&message, Signing::Good)?;
        let fields = envelope(&from, &[&one.address, &other.address]);
        let (status, text) = post(&one.peer, &fields, &bytes).await?;
        ensure!(status == 200, "{status} {text}");
        for account in [&one, &other] {
            let (mut imap, _) = account.inbox().await?;
            let stored = arrival(&mut imap, message.id(), WITHIN).await?;
            let sent = message.bytes();
            let body = |bytes: &[u8]| {
                let text = String::from_utf8_lossy(bytes).into_owned();
                text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned())
            };
            ensure!(body(&stored) == body(&sent), "the message was changed");
        }
    }
    Ok(())
}

async fn status(peer: &Peer, fields: &str, message: &[u8]) -> anyhow::Result<(u16, String)> {
    post(peer, fields, message).await
}

/// Properties of requests without a counterpart in SMTP: methods, fields, sizes.
pub(super) async fn requests(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let receiver = context.account(RELAY).await?;
    let (peer, to) = (&receiver.peer, &*receiver.address);
    let from = format!("someone@{DOMAIN}");
    let message = signed(&pgp::encrypted(&from, 2000), Signing::Good)?;
    for method in ["GET", "PUT", "DELETE"] {
        let answer = http::request(peer.port(443), &peer.tls, &peer.domain, method, "/mxdeliv").await?;
        ensure!(answer.status == 405, "{method}: {}", answer.head);
    }

    // Each field must contain exactly one address.
    let bad = "501 5.1.3 Bad recipient address syntax";
    for value in [
        format!("<{to}>"),
        format!("{to}> SIZE=1"),
        format!("{to}>\tNOTIFY=SUCCESS"),
        format!("{to}, {to}"),
        format!("\"{to}"),
    ] {
        let fields = format!("X-MAIL-FROM: {from}\r\nX-MAIL-TO: {value}\r\n");
        let got = status(peer, &fields, &message).await?;
        ensure!(got == (400, bad.to_owned()), "{value}: {got:?}");
    }
    let got = status(peer, &envelope(&from, &[]), &message).await?;
    ensure!(
        got == (400, "554 5.5.1 Error: no valid recipients".to_owned()),
        "{got:?}"
    );
    let got = status(
        peer,
        &format!("X-MAIL-FROM: {from}\r\n{}", envelope(&from, &[to])),
        &message,
    )
    .await?;
    ensure!(
        got.0 == 400 && got.1.starts_with("501 5.1.7 "),
        "two senders: {got:?}"
    );

    // A client cannot claim another source address.
    let here: IpAddr = context.topology.host.into();
    let literal = pgp::encrypted("someone@[192.0.2.7]", 2000).bytes();
    let fields = format!(
        "X-Real-IP: 192.0.2.7\r\nX-Forwarded-For: 192.0.2.7\r\n{}",
        envelope("someone@[192.0.2.7]", &[to])
    );
    let got = status(peer, &fields, &literal).await?;
    let want = format!("500 Invalid FROM domain literal: 192.0.2.7 does not match origin IP {here}");
    ensure!(got == (400, want), "a claimed address: {got:?}");
    let from_here = format!("someone@[{here}]");
    let got = status(
        peer,
        &envelope(&from_here, &[to]),
        &pgp::encrypted(&from_here, 2000).bytes(),
    )
    .await?;
    ensure!(got.0 == 200, "from an address literal of its own: {got:?}");

    // The last of many recipients belongs to another relay.
    for (number, reply) in [(MANY, Some("554 5.7.1 <u@")), (TOO_MANY, None)] {
        let mut many = vec![to; number];
        let elsewhere = format!("u@{}", context.peer("b")?.mail_domain);
        many.push(&elsewhere);
        let got = status(peer, &envelope(&from, &many), &message).await?;
        let expected = reply.is_none_or(|reply| got.1.starts_with(reply));
        ensure!(got.0 == 400 && expected, "{number} recipients: {got:?}");
    }

    // The relay rejects a declared size above the limit before the body, and an undeclared one when the body
    // exceeds the limit.
    let too_large = (413, "552 Message exceeds maximum size".to_owned());
    let request = head(peer, &envelope(&from, &[to]), MAX_SIZE + 1);
    let got = send(connect(peer).await?, request.as_bytes()).await?;
    ensure!(got == too_large, "{got:?}");
    // Request smuggling: parsers may choose different lengths.
    let both = head(peer, "transfer-encoding: chunked\r\n", 5);
    let got = send(connect(peer).await?, both.as_bytes()).await?;
    ensure!(got.0 == 400, "two lengths: {got:?}");
    Ok(())
}

/// Holds as many requests open as Postfix accepts connections per address, by sending a byte now and then.
async fn hold(peer: &Peer, begin: &[u8]) -> anyhow::Result<std::convert::Infallible> {
    let mut held = Vec::new();
    for _ in 0..CONNECTIONS {
        let mut wire = connect(peer).await?;
        wire.write(begin).await?;
        held.push(wire);
    }
    let mut bytes = tokio::time::interval(Duration::from_secs(2));
    loop {
        bytes.tick().await;
        for wire in &mut held {
            wire.write(b"x").await?;
        }
    }
}

/// The relay disconnects clients that stall, limits the connections of each address, and still accepts mail from others
/// meanwhile.
pub(super) async fn slow_clients(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let receiver = context.account(RELAY).await?;
    let (peer, to) = (&receiver.peer, &*receiver.address);
    let from = format!("someone@{DOMAIN}");
    let message = signed(&pgp::encrypted(&from, 2000), Signing::Good)?;
    let fields = envelope(&from, &[to]);
    let half = [head(peer, &fields, message.len()).as_bytes(), b"From: "].concat();

    // A stalled request times out, and the relay does not deliver it.
    let mut silent = connect(peer).await?;
    silent.write(&half).await?;
    let ended = tokio::time::timeout(WITHIN, said(silent)).await;
    let ended = ended.context("the relay does not disconnect a silent client")?;
    // nginx closes the connection without a response, or with status 408.
    if let Ok((status, text)) = ended {
        ensure!(status == 408, "a silent client: {status} {text}");
    }

    let refused = until(WITHIN, || async {
        let (status, text) = status(peer, &fields, &message).await?;
        let full = status == 400 && text.starts_with("421 4.7.0 ");
        ensure!(full || status == 200, "beside open requests: {status} {text}");
        Ok(full.then_some(()))
    });
    tokio::select! {
        refused = refused => refused.context("the connections of one address are not limited")?,
        ended = hold(peer, &half) => { ended.context("a slow client")?; }
    }
    // Port 25 counts its connections separately.
    peer.exchange(DOMAIN)
        .await?
        .send(&from, &[to], &message)
        .await?
        .expect(250)?;
    until(WITHIN, || async {
        Ok((status(peer, &fields, &message).await?.0 == 200).then_some(()))
    })
    .await
    .context("mail over HTTPS after slow clients have gone")
}
