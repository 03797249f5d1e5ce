//! The client side of a connection to Postfix (SMTP) or Dovecot (LMTP).

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use chatmail_core::Endpoint;
use tokio::io::{AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use super::data::stuffed;
use super::envelope::{Envelope, Path};
use crate::reply::Reply;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// Longest wait for a reply to a command, and for the server to read the next bytes.
const STEP_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the reply to a whole message: Postfix runs its milters first. The Postfix that waits for the filter
/// does so for 180 s (`smtpd_proxy_timeout`), which also includes up to 20 s for DKIM keys.
const FINAL_TIMEOUT: Duration = Duration::from_secs(70);
/// Recipients per batch of commands. Bounded, because Postfix stops reading commands while its replies are not read.
const BATCH: usize = 100;
/// Size up to which small pieces of a message are written together.
const BUFFER: usize = 64 * 1024;
const MAX_REPLY_LINE: usize = 2048;
const MAX_REPLY_LINES: usize = 100;

/// The protocol on a connection.
pub(super) enum Protocol {
    /// To an smtpd of Postfix; with an address, to one that reads the client's address from the PROXY protocol.
    Smtp(Option<IpAddr>),
    /// To Dovecot (RFC 2033).
    Lmtp,
}

/// A connection after its greeting.
pub(super) struct Connection {
    stream: daemon::Stream,
    input: Vec<u8>,
}

/// How a transaction failed.
pub(super) enum Failure {
    /// No byte of the message was sent, so it may be sent again.
    Clean(io::Error),
    /// The server may have accepted the message.
    Uncertain(io::Error),
}

/// The outcome of a transaction, and whether the connection can be used again.
pub(super) struct Outcome {
    pub(super) reply: Reply,
    pub(super) reusable: bool,
}

/// Tells Postfix the address of the client (PROXY protocol, version 1). The destination and the ports are placeholders.
fn proxy_header(origin: IpAddr) -> String {
    match origin.to_canonical() {
        IpAddr::V4(address) => format!("PROXY TCP4 {address} 127.0.0.1 443 443\r\n"),
        IpAddr::V6(address) => format!("PROXY TCP6 {address} ::1 443 443\r\n"),
    }
}

impl Connection {
    /// Connects and greets. The inner error is a negative greeting: with it, Postfix rejects a client that has too
    /// many connections.
    pub(super) async fn open(address: &Endpoint, protocol: Protocol) -> io::Result<Result<Self, Reply>> {
        let stream = timeout(CONNECT_TIMEOUT, daemon::connect(address)).await??;
        let mut connection = Self {
            stream,
            input: Vec::with_capacity(512),
        };
        if let Protocol::Smtp(Some(origin)) = protocol {
            connection.write(proxy_header(origin).as_bytes()).await?;
        }
        let greeting = connection.reply(STEP_TIMEOUT).await?;
        if !greeting.is_success() {
            return Ok(Err(greeting.into_negative()));
        }
        connection
            .write(match protocol {
                Protocol::Smtp(_) => b"EHLO localhost\r\n",
                Protocol::Lmtp => b"LHLO localhost\r\n",
            })
            .await?;
        connection.expect(b"250").await?;
        Ok(Ok(connection))
    }

    /// The same, for servers that turn nobody away: a negative greeting is an error.
    pub(super) async fn connect(address: &Endpoint, protocol: Protocol) -> io::Result<Self> {
        Self::open(address, protocol)
            .await?
            .map_err(|reply| io::Error::other(format!("it said {reply}")))
    }

    /// Sends a whole message and returns the reply to it.
    pub(super) async fn transaction(
        &mut self,
        envelope: &Envelope,
        message: &[u8],
    ) -> Result<Outcome, Failure> {
        if let Some(refused) = self.envelope(envelope).await.map_err(Failure::Clean)? {
            return Ok(refused);
        }
        self.write_pieces(stuffed(message))
            .await
            .map_err(Failure::Uncertain)?;
        let reply = self.reply(FINAL_TIMEOUT).await.map_err(Failure::Uncertain)?;
        Ok(Outcome {
            reusable: !reply.as_str().starts_with("421"),
            reply,
        })
    }

    /// Sends everything before the message. Returns `None` if the server accepts the envelope and waits for the message.
    pub(super) async fn envelope(&mut self, envelope: &Envelope) -> io::Result<Option<Outcome>> {
        let mut refused: Option<Reply> = None;
        let data = match (self.commands(envelope, &mut refused).await, &refused) {
            (Ok(data), _) => data,
            (Err(error), None) => return Err(error),
            // The server closes the connection after too many errors.
            (Err(_), Some(reply)) => {
                return Ok(Some(Outcome {
                    reply: reply.clone().into_negative(),
                    reusable: false,
                }));
            }
        };
        let start = data.as_str().starts_with("354");
        // All recipients get the message or none: otherwise some would get it twice when the client tries again.
        let Some(reply) = refused.or((!start).then_some(data)) else {
            return Ok(None);
        };
        Ok(Some(Outcome {
            reply: reply.into_negative(),
            // After 354, only closing the connection avoids sending a message.
            reusable: !start && self.write(b"RSET\r\n").await.is_ok() && self.expect(b"250").await.is_ok(),
        }))
    }

    /// Sends the commands and returns the reply to `DATA`; sets `refused` to the first negative reply to another one.
    /// Sends all commands of a batch in one write, because both servers always offer `PIPELINING` (RFC 2920).
    async fn commands(&mut self, envelope: &Envelope, refused: &mut Option<Reply>) -> io::Result<Reply> {
        let mut commands = String::new();
        line(&mut commands, "MAIL FROM", &envelope.sender);
        let mut batches = envelope.recipients.chunks(BATCH).peekable();
        let mut awaited = 1;
        while let Some(batch) = batches.next() {
            for recipient in batch {
                line(&mut commands, "RCPT TO", recipient);
            }
            awaited += batch.len();
            if batches.peek().is_none() {
                commands.push_str("DATA\r\n");
            }
            self.write(commands.as_bytes()).await?;
            commands.clear();
            for _ in 0..std::mem::take(&mut awaited) {
                let reply = self.reply(STEP_TIMEOUT).await?;
                if !reply.is_success() {
                    refused.get_or_insert(reply);
                }
            }
        }
        self.reply(STEP_TIMEOUT).await
    }

    /// Writes pieces of a message.
    pub(super) async fn write_pieces<'a>(
        &mut self,
        pieces: impl Iterator<Item = &'a [u8]>,
    ) -> io::Result<()> {
        write_pieces(&mut self.stream, pieces).await
    }

    pub(super) async fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        timeout(STEP_TIMEOUT, self.stream.write_all(bytes)).await?
    }

    async fn expect(&mut self, code: &[u8]) -> io::Result<()> {
        let reply = self.reply(STEP_TIMEOUT).await?;
        if reply.as_str().as_bytes().starts_with(code) {
            Ok(())
        } else {
            Err(io::Error::other(format!("unexpected reply: {reply}")))
        }
    }

    /// Returns the last line of the next reply.
    pub(super) async fn reply(&mut self, wait: Duration) -> io::Result<Reply> {
        timeout(wait, async {
            for _ in 0..MAX_REPLY_LINES {
                let line = self.line().await?;
                match line.get(3) {
                    Some(b'-') => {}
                    Some(b' ') | None
                        if line
                            .get(..3)
                            .is_some_and(|code| code.iter().all(u8::is_ascii_digit)) =>
                    {
                        return Ok(Reply::relayed(&String::from_utf8_lossy(&line)));
                    }
                    _ => break,
                }
            }
            Err(io::Error::new(io::ErrorKind::InvalidData, "malformed reply"))
        })
        .await?
    }

    async fn line(&mut self) -> io::Result<Vec<u8>> {
        loop {
            if let Some(end) = memchr::memchr(b'\n', &self.input) {
                let rest = self.input.split_off(end + 1);
                let mut line = std::mem::replace(&mut self.input, rest);
                line.truncate(end);
                if line.last() == Some(&b'\r') {
                    line.pop();
                }
                return Ok(line);
            }
            if self.input.len() > MAX_REPLY_LINE {
                return Err(io::Error::new(io::ErrorKind::InvalidData, "reply too long"));
            }
            if self.stream.read_buf(&mut self.input).await? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

fn line(commands: &mut String, verb: &str, path: &Path) {
    commands.push_str(verb);
    commands.push_str(":<");
    commands.push_str(&path.address);
    commands.push('>');
    if !path.parameters.is_empty() {
        commands.push(' ');
        commands.push_str(&path.parameters);
    }
    commands.push_str("\r\n");
}

/// Combines small pieces, so that a message of many leading dots does not cost a system call for each, and writes large
/// pieces without copying them.
async fn write_pieces<'a>(
    stream: &mut (impl AsyncWrite + Unpin),
    pieces: impl Iterator<Item = &'a [u8]>,
) -> io::Result<()> {
    let mut buffer = Vec::new();
    for piece in pieces {
        if buffer.len() + piece.len() > BUFFER {
            write_all(stream, &buffer).await?;
            buffer.clear();
        }
        if piece.len() > BUFFER {
            write_all(stream, piece).await?;
        } else {
            buffer.extend_from_slice(piece);
        }
    }
    write_all(stream, &buffer).await
}

/// Writes as fast as the server reads; fails after [`STEP_TIMEOUT`] without progress.
async fn write_all(stream: &mut (impl AsyncWrite + Unpin), mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        let written = timeout(STEP_TIMEOUT, stream.write(bytes)).await??;
        if written == 0 {
            return Err(io::ErrorKind::WriteZero.into());
        }
        bytes = bytes.get(written..).unwrap_or_default();
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn pieces_of_any_number_arrive_in_order() {
        let text: Vec<u8> = (0..30_000_u32).flat_map(u32::to_le_bytes).collect();
        // A pipe with a small buffer.
        for size in [3, 100, BUFFER, BUFFER + 1] {
            let (mut near, mut far) = tokio::io::duplex(777);
            let sent = text.clone();
            let writer = tokio::spawn(async move { write_pieces(&mut near, sent.chunks(size)).await });
            let mut received = Vec::new();
            far.read_to_end(&mut received).await.unwrap();
            writer.await.unwrap().unwrap();
            assert_eq!(received, text);
        }
    }
}
