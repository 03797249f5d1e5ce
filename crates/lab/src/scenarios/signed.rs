//! Signed messages arrive unchanged.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mail_auth::hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, MessageAuthenticator};
use mailtest::client::message::random_name;
use mailtest::client::outside::{DOMAIN, Signing, deliver, signed_bytes};
use mailtest::client::pgp;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;

use super::Context;
use crate::harness::tls;

const WITHIN: Duration = Duration::from_secs(60);

/// Relay b signs a bounce for a message with non-ASCII characters and lines that `smtp(8)` would fold, and delivers it
/// to a server without 8BITMIME.
pub(super) async fn leaves_unchanged(context: &Context) -> anyhow::Result<()> {
    context.publish_outside().await?;
    let machines = context.machines();
    let certificate = machines.certificate(&[DOMAIN.to_owned()])?;
    let listener = TcpListener::bind((context.topology.host, 25))
        .await
        .context("cannot start a mail server")?;
    let peer = context.peer("b")?;
    let nobody = format!("{}@{}", random_name(9), peer.mail_domain);
    let from = format!("someone@{DOMAIN}");
    let text = String::from_utf8(pgp::encrypted(&from, 2000).bytes())?;
    let long = "x".repeat(1500);
    let odd = text.replacen(
        "Subject:",
        &format!("X-Long: {long}\r\nX-Name: M\u{fc}ller\r\nSubject:"),
        1,
    );
    let message = signed_bytes(odd.into_bytes(), Signing::Good)?;
    let receiving = receive(&listener, tls::acceptor(&certificate, &[])?);
    let (received, reply) = tokio::join!(
        tokio::time::timeout(WITHIN, receiving),
        deliver(&peer, &from, &nobody, &message)
    );
    reply?.expect(250)?;
    let report = received.context("no bounce arrives")??;
    let text = String::from_utf8_lossy(&report);
    ensure!(
        text.contains(&format!("X-Long: {long}\r\n")),
        "the long line was folded"
    );
    ensure!(text.contains("X-Name: M\u{fc}ller\r\n"), "the name was encoded");
    verify(context, &report).await
}

/// Receives one message as a mail server whose only extension is STARTTLS.
pub(super) async fn receive(listener: &TcpListener, acceptor: TlsAcceptor) -> anyhow::Result<Vec<u8>> {
    let (stream, _) = listener.accept().await?;
    receive_over(stream, acceptor).await
}

/// The same over a connection that has been accepted.
pub(super) async fn receive_over(stream: TcpStream, acceptor: TlsAcceptor) -> anyhow::Result<Vec<u8>> {
    take(secure(stream, acceptor).await?).await
}

/// Receives one message as a mail server without TLS.
pub(super) async fn receive_cleartext(listener: &TcpListener) -> anyhow::Result<Vec<u8>> {
    let (mut stream, _) = listener.accept().await?;
    stream.write_all(b"220 outside.test ESMTP\r\n").await?;
    take(stream).await
}

/// Receives one message.
async fn take(stream: impl AsyncRead + AsyncWrite + Unpin) -> anyhow::Result<Vec<u8>> {
    let mut stream = BufReader::new(stream);
    converse(&mut stream, "250 outside.test", "DATA").await?;
    stream.write_all(b"354 go\r\n").await?;
    let mut message = Vec::new();
    loop {
        let mut line = Vec::new();
        ensure!(
            stream.read_until(b'\n', &mut line).await? > 0,
            "the message is incomplete"
        );
        if line == b".\r\n" {
            break;
        }
        message.extend_from_slice(line.strip_prefix(b".").unwrap_or(&line));
    }
    stream.write_all(b"250 2.0.0 Ok\r\n").await?;
    Ok(message)
}

async fn secure(
    stream: TcpStream,
    acceptor: TlsAcceptor,
) -> anyhow::Result<tokio_rustls::server::TlsStream<TcpStream>> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 outside.test ESMTP\r\n").await?;
    converse(&mut stream, "250-outside.test\r\n250 STARTTLS", "STARTTLS").await?;
    stream.write_all(b"220 go\r\n").await?;
    Ok(acceptor.accept(stream.into_inner()).await?)
}

/// Replies to commands until this one arrives.
async fn converse<S>(stream: &mut BufReader<S>, ehlo: &str, last: &str) -> anyhow::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    loop {
        let mut line = String::new();
        ensure!(
            stream.read_line(&mut line).await? > 0,
            "the relay closed the connection"
        );
        let line = line.trim_end();
        if line == last {
            return Ok(());
        }
        ensure!(!line.contains("8BITMIME"), "the relay sends {line}");
        let reply = if line.starts_with("EHLO ") {
            ehlo
        } else {
            "250 2.0.0 Ok"
        };
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
    }
}

/// Verifies the signature with the key that the relay publishes.
async fn verify(context: &Context, message: &[u8]) -> anyhow::Result<()> {
    let server = NameServerConfig::udp_and_tcp(context.topology.resolver.into());
    let resolver = ResolverConfig::from_name_servers(vec![server]);
    let authenticator = MessageAuthenticator::new(resolver, ResolverOpts::default())?;
    let parsed = AuthenticatedMessage::parse(message).context("not a message")?;
    let results = authenticator.verify_dkim(&parsed).await;
    ensure!(
        results.iter().any(|output| *output.result() == DkimResult::Pass),
        "no signature is valid: {results:?}"
    );
    Ok(())
}
