//! Mail leaves over HTTPS if the other side accepts it, and over SMTP otherwise, within one attempt.

use std::collections::BTreeSet;
use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use mailtest::client::message::{Message, random_name};
use mailtest::client::outside::DOMAIN;
use mailtest::client::{Account, arrival, arrival_of, pgp};
use mailtest::until;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use super::Context;
use super::metrics::Samples;
use super::signed::receive;
use crate::harness::tls;
use crate::machine::dead_addresses;

/// A relay with `federation.https.send`, and one to which it delivers.
const RELAY: &str = "a";
const OTHER: &str = "b";
/// Shorter than the time after which Postfix tries again (`minimal_backoff_time`).
const ONE_ATTEMPT: Duration = Duration::from_secs(45);
/// The same with a web server that accepts a request and never responds, which costs 60 s.
const WITH_SILENCE: Duration = Duration::from_secs(100);
/// Number of messages on one connection.
const MESSAGES: usize = 5;
/// The port on which filtermail-transport accepts messages from Postfix.
const HOP: &str = "127.0.0.1/10083";

/// A web server of another domain.
pub(super) struct Site {
    listener: TcpListener,
    acceptor: TlsAcceptor,
}

/// A request to `/mxdeliv`.
pub(super) struct Request {
    head: String,
    pub(super) body: Vec<u8>,
}

impl Site {
    /// Starts a server with a certificate for this name.
    pub(super) async fn new(context: &Context, name: &str) -> anyhow::Result<Self> {
        Self::at(context, context.topology.host, name).await
    }

    /// The same on another address of the host.
    async fn at(context: &Context, address: Ipv4Addr, name: &str) -> anyhow::Result<Self> {
        let certificate = context.machines().certificate(&[name.to_owned()])?;
        Ok(Self {
            listener: TcpListener::bind((address, 443))
                .await
                .context("cannot start a web server")?,
            acceptor: tls::acceptor(&certificate, &[])?,
        })
    }

    /// Accepts the next request after a complete handshake, and sends this response, or none.
    pub(super) async fn answer(&self, answer: Option<(&str, &str)>) -> anyhow::Result<Request> {
        loop {
            let (stream, _) = self.listener.accept().await?;
            let Ok(mut stream) = self.acceptor.accept(stream).await else {
                continue;
            };
            let mut bytes = Vec::new();
            let request = loop {
                ensure!(
                    stream.read_buf(&mut bytes).await? > 0,
                    "the request is incomplete"
                );
                if let Some(request) = whole(&bytes) {
                    break request;
                }
            };
            match answer {
                Some((status, text)) => {
                    let answer = format!(
                        "HTTP/1.1 {status}\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
                        text.len()
                    );
                    stream.write_all(answer.as_bytes()).await?;
                    stream.shutdown().await?;
                }
                // The relay times out and closes the connection.
                None => while stream.read_buf(&mut bytes).await.is_ok_and(|read| read > 0) {},
            }
            return Ok(request);
        }
    }
}

/// Parses the request in these bytes, if it is complete.
fn whole(bytes: &[u8]) -> Option<Request> {
    let end = bytes.windows(4).position(|four| four == b"\r\n\r\n")?;
    let head = String::from_utf8_lossy(bytes.get(..end)?).to_ascii_lowercase();
    let length = head
        .lines()
        .find_map(|line| line.strip_prefix("content-length: ")?.parse().ok())
        .unwrap_or(0);
    let body = bytes.get(end + 4..)?;
    (body.len() >= length).then(|| Request {
        head: format!("{head}\r\n"),
        body: body.to_vec(),
    })
}

/// Returns a new domain for each case, because the relay remembers destinations without HTTPS.
async fn publish(context: &Context) -> anyhow::Result<String> {
    let domain = format!("{}.test", random_name(9));
    let host = context.topology.host;
    let zone = format!("{domain}. 60 IN A {host}\n{domain}. 60 IN MX 10 {DOMAIN}.\n");
    context.machines().publish(&domain, &zone).await?;
    Ok(domain)
}

async fn submit(sender: &Account, to: &str) -> anyhow::Result<Message> {
    let message = pgp::encrypted(&sender.address, 2000);
    sender.submit(to, &message).await?.expect(250)?;
    Ok(message)
}

/// Returns the number of messages that the other relay has accepted over HTTPS.
pub(super) async fn accepted(context: &Context) -> anyhow::Result<f64> {
    let text = context
        .run(OTHER, &["curl", "-sSf", "http://127.0.0.1:3911/metrics"])
        .await?;
    Samples::parse(&text)?
        .sum(&["chatmail_mxdeliv_requests_total"], "result=\"accepted\"")
        .context("relay b has no counter of requests")
}

/// Checks that a message arrives over SMTP and none at the web server of its destination.
async fn without_https(
    sender: &Account,
    to: &str,
    site: &Site,
    over_smtp: impl Future<Output = anyhow::Result<Vec<u8>>>,
) -> anyhow::Result<()> {
    let receiving = async {
        tokio::select! {
            got = over_smtp => got,
            _ = site.answer(Some(("200 OK", "250 OK"))) => bail!("the relay used HTTPS"),
        }
    };
    let (sent, got) = tokio::join!(submit(sender, to), tokio::time::timeout(ONE_ATTEMPT, receiving));
    sent?;
    got.context("nothing arrives over SMTP")??;
    Ok(())
}

/// The relay delivers to a destination without port 25 over HTTPS, with a signature and the envelope.
pub(super) async fn https_only(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let sender = context.account(RELAY).await?;
    let to = format!("someone@{}", publish(context).await?);
    let site = Site::new(context, DOMAIN).await?;
    let (sent, got) = tokio::join!(
        submit(&sender, &to),
        tokio::time::timeout(ONE_ATTEMPT, site.answer(Some(("200 OK", "250 OK"))))
    );
    let (sent, got) = (sent?, got.context("nothing arrives over HTTPS")??);
    for field in [
        "post /mxdeliv ".to_owned(),
        format!("x-mail-from: {}\r\n", sender.address),
        format!("x-mail-to: {to}\r\n"),
    ] {
        ensure!(got.head.contains(&field), "no {field:?} in {}", got.head);
    }
    let text = String::from_utf8_lossy(&got.body).into_owned();
    ensure!(text.contains(sent.id()), "another message arrived");
    ensure!(text.contains("DKIM-Signature: "), "the message is not signed");
    context.queues_empty(&[RELAY], ONE_ATTEMPT).await
}

/// Relays deliver to each other over HTTPS, whether or not port 25 between them is blocked, and over SMTP if port 443 is.
pub(super) async fn between_relays(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account(RELAY).await?, context.account(OTHER).await?);
    let (mut imap, _) = receiver.inbox().await?;
    for closed in [None, Some("25"), Some("443")] {
        let port = closed.unwrap_or_default();
        let close = ["pref", "100", "ipproto", "tcp", "dport", port, "prohibit"];
        let before = accepted(context).await?;
        if closed.is_some() {
            context
                .run(RELAY, &[&["ip", "rule", "add"], &close[..]].concat())
                .await?;
        }
        let delivered = async {
            let message = submit(&sender, &receiver.address).await?;
            arrival(&mut imap, message.id(), ONE_ATTEMPT).await
        }
        .await;
        if closed.is_some() {
            context
                .run(RELAY, &[&["ip", "rule", "delete"], &close[..]].concat())
                .await?;
        }
        if closed == Some("443") {
            // The relay remembers the other one as a server without HTTPS.
            let unit = "filtermail-transport.service";
            context.run(RELAY, &["systemctl", "restart", unit]).await?;
        }
        delivered.with_context(|| format!("closed port: {closed:?}"))?;
        ensure!(
            (accepted(context).await? > before) == (closed != Some("443")),
            "closed port {closed:?}: the message took the wrong way"
        );
    }
    Ok(())
}

/// Local ends of the connections over HTTPS to the other relay.
async fn connections(context: &Context) -> anyhow::Result<BTreeSet<String>> {
    let other = context.topology.relay(OTHER).context("no relay b")?.ipv4;
    let filter = format!("dst {other} and dport = :443");
    let argv = ["ss", "-Htn", "state", "established", &filter];
    let table = context.run(RELAY, &argv).await?;
    let local = |line: &str| line.split_whitespace().nth(2).map(str::to_owned);
    Ok(table.lines().filter_map(local).collect())
}

/// Messages share a connection, which stays open between them.
pub(super) async fn one_connection(context: &Context) -> anyhow::Result<()> {
    let (sender, receiver) = (context.account(RELAY).await?, context.account(OTHER).await?);
    let (mut imap, _) = receiver.inbox().await?;
    let mut known = BTreeSet::new();
    for number in 0..MESSAGES {
        let before = accepted(context).await?;
        let message = submit(&sender, &receiver.address).await?;
        arrival(&mut imap, message.id(), ONE_ATTEMPT).await?;
        ensure!(accepted(context).await? > before, "the message took another way");
        let open = connections(context).await?;
        ensure!(
            !open.is_empty() && (number == 0 || open == known),
            "message {number}: connections {open:?} after {known:?}"
        );
        known = open;
    }
    Ok(())
}

/// If a destination has no HTTPS, or a web server that is not a relay, mail goes over SMTP in the same attempt.
pub(super) async fn smtp_only(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let sender = context.account(RELAY).await?;
    let certificate = context.machines().certificate(&[DOMAIN.to_owned()])?;
    let listener = TcpListener::bind((context.topology.host, 25))
        .await
        .context("cannot start a mail server")?;
    let over_smtp = || async { receive(&listener, tls::acceptor(&certificate, &[])?).await };
    let cases = [
        ("nothing", None),
        ("404", Some(Some(("404 Not Found", "")))),
        ("a page", Some(Some(("200 OK", "<html>Welcome!</html>")))),
        ("500", Some(Some(("500 Internal Server Error", "")))),
        (
            "a temporary error",
            Some(Some(("400 Bad Request", "451 4.3.0 later"))),
        ),
        ("silence", Some(None)),
    ];
    for (what, answer) in cases {
        let domain = publish(context).await?;
        let to = format!("someone@{domain}");
        let receiving = async {
            if let Some(answer) = answer {
                let site = Site::new(context, DOMAIN).await?;
                site.answer(answer).await?;
            }
            over_smtp().await
        };
        let within = if what == "silence" {
            WITH_SILENCE
        } else {
            ONE_ATTEMPT
        };
        let (sent, got) = tokio::join!(submit(&sender, &to), tokio::time::timeout(within, receiving));
        let got = got.with_context(|| format!("nothing arrives over SMTP after {what}"))??;
        ensure!(
            String::from_utf8_lossy(&got).contains(sent?.id()),
            "another message arrived"
        );
        if what == "404" {
            // The relay does not try HTTPS again.
            let site = Site::new(context, DOMAIN).await?;
            without_https(&sender, &to, &site, over_smtp())
                .await
                .context("after a 404")?;
        }
    }

    // The relay sends nothing over HTTPS to a host with another host's certificate.
    let to = format!("someone@{}", publish(context).await?);
    let site = Site::new(context, "other.test").await?;
    without_https(&sender, &to, &site, over_smtp())
        .await
        .context("beside a wrong certificate")
}

/// The relay retries HTTPS with a host remembered as one without HTTPS when the host becomes unreachable over SMTP.
pub(super) async fn forgotten(context: &Context) -> anyhow::Result<()> {
    let sender = context.account(RELAY).await?;
    // Postfix logs the address of a server to which it cannot connect; it must differ from that of the lab's clients.
    let address = *dead_addresses(RELAY, 2)?.last().context("no address")?;
    let domain = format!("{}.test", random_name(9));
    let zone = format!("{domain}. 60 IN A {address}\n{domain}. 60 IN MX 10 {domain}.\n");
    context.machines().publish(&domain, &zone).await?;
    let to = format!("someone@{domain}");
    let certificate = context.machines().certificate(std::slice::from_ref(&domain))?;
    let listener = TcpListener::bind((address, 25))
        .await
        .context("cannot start a mail server")?;
    let (sent, got) = tokio::join!(
        submit(&sender, &to),
        tokio::time::timeout(ONE_ATTEMPT, receive(&listener, tls::acceptor(&certificate, &[])?))
    );
    sent?;
    got.context("nothing arrives over SMTP")??;
    drop(listener);
    let site = Site::at(context, address, &domain).await?;
    let message = submit(&sender, &to).await?;
    // The attempt over SMTP fails, and the next one uses HTTPS.
    let deferred = || async {
        let queue = context.run(RELAY, &["postqueue", "-j"]).await?;
        let failed = |line: &str| line.contains(&to) && line.contains("Connection refused");
        Ok(queue.lines().any(failed).then_some(()))
    };
    until(ONE_ATTEMPT, deferred)
        .await
        .context("the message is not deferred")?;
    context.run(RELAY, &["postqueue", "-f"]).await?;
    let got = tokio::time::timeout(ONE_ATTEMPT, site.answer(Some(("200 OK", "250 OK"))))
        .await
        .context("nothing arrives over HTTPS")??;
    ensure!(
        String::from_utf8_lossy(&got.body).contains(message.id()),
        "another message arrived"
    );
    context.queues_empty(&[RELAY], ONE_ATTEMPT).await
}

/// If the other relay rejects a message over HTTPS, the sender gets the reason immediately.
pub(super) async fn refused(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let sender = context.account(RELAY).await?;
    let (mut imap, _) = sender.inbox().await?;
    let to = format!("someone@{}", publish(context).await?);
    let site = Site::new(context, DOMAIN).await?;
    let reason = "554 5.7.1 No valid DKIM signature found (of this one)";
    let (sent, got) = tokio::join!(
        submit(&sender, &to),
        tokio::time::timeout(ONE_ATTEMPT, site.answer(Some(("400 Bad Request", reason))))
    );
    sent?;
    got.context("nothing arrives over HTTPS")??;
    let criteria = format!("FROM MAILER-DAEMON BODY {to}");
    let report = arrival_of(&mut imap, &criteria, ONE_ATTEMPT).await?;
    let report = String::from_utf8_lossy(&report).into_owned();
    ensure!(
        report.contains("Status: 5.7.1\r\n") && report.contains("of this one"),
        "the bounce does not contain the reason: {report}"
    );
    Ok(())
}

/// Returns the first line that this Unix user reads from the port of filtermail-transport.
async fn greeting(context: &Context, user: &str) -> anyhow::Result<String> {
    let script = format!("exec 3<>/dev/tcp/{HOP} && timeout 20 head -n 1 <&3");
    let argv = ["setpriv", "--reuid", user, "--clear-groups", "--regid", user];
    let line = context
        .run(RELAY, &[&argv[..], &["bash", "-c", &script]].concat())
        .await?;
    Ok(line.trim_end().to_owned())
}

/// Any local process can connect to the port, but only Postfix can deliver through it.
pub(super) async fn only_postfix(context: &Context) -> anyhow::Result<()> {
    for user in ["root", "nginx", "vmail"] {
        let said = greeting(context, user).await?;
        ensure!(said.is_empty(), "filtermail-transport sent to {user}: {said}");
    }
    let said = greeting(context, "postfix").await?;
    ensure!(
        said.starts_with("220 "),
        "filtermail-transport sent to Postfix: {said}"
    );
    Ok(())
}

/// While filtermail-transport is stopped, lookups wait for it, and mail to users of the relay does not.
pub(super) async fn restart(context: &Context) -> anyhow::Result<()> {
    let unit = "filtermail-transport.service";
    let (sender, receiver) = (context.account(RELAY).await?, context.account(OTHER).await?);
    let neighbour = context.account(RELAY).await?;
    let (mut imap, _) = receiver.inbox().await?;
    let (mut near, _) = neighbour.inbox().await?;
    context.run(RELAY, &["systemctl", "stop", unit]).await?;
    // The socket starts the service again with the first lookup.
    let message = submit(&sender, &receiver.address).await?;
    arrival(&mut imap, message.id(), ONE_ATTEMPT).await?;
    let active = || async {
        let state = context.run(RELAY, &["systemctl", "is-active", unit]).await;
        Ok(state.is_ok().then_some(()))
    };
    until(ONE_ATTEMPT, active)
        .await
        .context("it does not start again")?;
    // A service that hangs delays only mail to other relays.
    context
        .run(RELAY, &["systemctl", "kill", "--signal=STOP", unit])
        .await?;
    let message = submit(&sender, &neighbour.address).await;
    let arrived = match &message {
        Ok(message) => arrival(&mut near, message.id(), ONE_ATTEMPT).await.map(|_| ()),
        Err(_) => Ok(()),
    };
    context
        .run(RELAY, &["systemctl", "kill", "--signal=CONT", unit])
        .await?;
    message?;
    arrived.context("mail on the relay waits for delivery to others")
}
