//! A small SMTP client (RFC 5321) that returns every reply unchanged.

use std::fmt;
use std::net::SocketAddr;

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::net::TcpStream;

use super::tls::Tls;
use super::wire::{Secured, Wire};

/// Context of errors that occur after the client has sent the whole message.
pub const AFTER_THE_DOT: &str = "after the final dot";

/// A server's reply to a command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    /// The three-digit reply code.
    pub code: u16,
    /// The text of each line, without code and separator.
    pub lines: Vec<String>,
}

impl Reply {
    /// Whether the command succeeded (2xx), or the server waits for more (3xx).
    pub fn is_positive(&self) -> bool {
        (200..400).contains(&self.code)
    }

    /// Whether the client should retry later (4xx).
    pub fn is_transient(&self) -> bool {
        (400..500).contains(&self.code)
    }

    /// Returns this reply, or an error that quotes it if it has another code.
    pub fn expect(self, code: u16) -> anyhow::Result<Self> {
        ensure!(self.code == code, "expected {code}, the server replied: {self}");
        Ok(self)
    }

    /// Checks the whole reply, which must be one line.
    pub fn expect_line(&self, want: &str) -> anyhow::Result<()> {
        let got = self.to_string();
        ensure!(got == want, "expected `{want}`, the server replied: `{got}`");
        Ok(())
    }

    /// Checks the beginning of the reply.
    pub fn expect_start(&self, want: &str) -> anyhow::Result<()> {
        let got = self.to_string();
        ensure!(
            got.starts_with(want),
            "expected `{want}…`, the server replied: `{got}`"
        );
        Ok(())
    }
}

impl fmt::Display for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.code, self.lines.join(" / "))
    }
}

/// Parses one line of a reply: code, whether more lines follow, text.
fn parse_line(line: &[u8]) -> Option<(u16, bool, String)> {
    let text = String::from_utf8_lossy(line);
    let code = text.get(..3)?;
    if !code.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let more = match text.as_bytes().get(3) {
        None | Some(b' ') => false,
        Some(b'-') => true,
        Some(_) => return None,
    };
    Some((
        code.parse().ok()?,
        more,
        text.get(4..).unwrap_or_default().to_owned(),
    ))
}

/// Returns the message as sent after DATA: leading dots doubled, CRLF line endings, final dot (RFC 5321, 4.5.2).
pub fn dot_stuffed(message: &[u8]) -> Vec<u8> {
    let mut wire = Vec::with_capacity(message.len() + message.len() / 64 + 5);
    for line in message.split_inclusive(|byte| *byte == b'\n') {
        if line.first() == Some(&b'.') {
            wire.push(b'.');
        }
        let bare = line.strip_suffix(b"\n").unwrap_or(line);
        wire.extend_from_slice(bare.strip_suffix(b"\r").unwrap_or(bare));
        wire.extend_from_slice(b"\r\n");
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

/// A session with an SMTP server.
pub struct Smtp {
    wire: Wire,
    greeting: Reply,
    extensions: Vec<String>,
}

impl Smtp {
    /// Connects without encryption and reads the greeting.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Self::greeted(Wire::connect(address).await?).await
    }

    /// Reads the greeting on a connection that is already open.
    pub async fn over(stream: TcpStream) -> anyhow::Result<Self> {
        Self::greeted(Wire::over(stream)).await
    }

    /// Connects with TLS from the first byte and reads the greeting.
    pub async fn connect_tls(address: SocketAddr, tls: &Tls, name: &str) -> anyhow::Result<Self> {
        Self::greeted(Wire::connect_tls(address, tls, name).await?).await
    }

    /// Reads the greeting.
    pub(super) async fn greeted(mut wire: Wire) -> anyhow::Result<Self> {
        let greeting = read_reply(&mut wire).await.context("waiting for the greeting")?;
        Ok(Self {
            wire,
            greeting,
            extensions: Vec::new(),
        })
    }

    /// Returns the server's greeting.
    pub fn greeting(&self) -> &Reply {
        &self.greeting
    }

    /// Returns the extensions that the server announced after EHLO, one per line.
    pub fn extensions(&self) -> &[String] {
        &self.extensions
    }

    /// Returns the TLS parameters; none on a plain connection.
    pub fn secured(&self) -> Option<&Secured> {
        self.wire.secured()
    }

    /// Sends EHLO with this name; Delta Chat uses `[127.0.0.1]`.
    pub async fn ehlo(&mut self, name: &str) -> anyhow::Result<()> {
        let reply = self.command(&format!("EHLO {name}")).await?.expect(250)?;
        self.extensions = reply.lines.into_iter().skip(1).collect();
        Ok(())
    }

    /// Sends STARTTLS, performs the handshake without a server name as Delta Chat does, and sends EHLO again.
    pub async fn starttls(mut self, tls: &Tls, name: &str, ehlo: &str) -> anyhow::Result<Self> {
        self.command("STARTTLS").await?.expect(220)?;
        let wire = self.wire.handshake(&tls.clone().without_sni(), name).await?;
        let mut secured = Self {
            wire,
            greeting: self.greeting,
            extensions: Vec::new(),
        };
        secured.ehlo(ehlo).await?;
        Ok(secured)
    }

    /// Sends a command and reads its reply.
    pub async fn command(&mut self, line: &str) -> anyhow::Result<Reply> {
        self.wire.write(format!("{line}\r\n").as_bytes()).await?;
        self.reply().await
    }

    /// Sends part of a message.
    pub async fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        Ok(self.wire.write(bytes).await?)
    }

    /// Reads the next reply.
    pub async fn reply(&mut self) -> anyhow::Result<Reply> {
        read_reply(&mut self.wire).await
    }

    /// Sends AUTH PLAIN with an initial response (RFC 4954).
    pub async fn auth_plain(&mut self, user: &str, password: &str) -> anyhow::Result<Reply> {
        let response = STANDARD.encode(format!("\0{user}\0{password}"));
        // The line contains the password, so errors never quote it.
        self.wire
            .write(format!("AUTH PLAIN {response}\r\n").as_bytes())
            .await?;
        self.reply().await.context("AUTH PLAIN")
    }

    /// Sends a message, pipelined as in Delta Chat: MAIL, every RCPT and DATA in one write.
    ///
    /// Returns the reply that decides: the first rejection, or else the reply after the final dot. After a rejection,
    /// the server may still have accepted DATA, so callers drop the connection, like Delta Chat.
    pub async fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> anyhow::Result<Reply> {
        let mut commands = format!("MAIL FROM:<{from}> BODY=8BITMIME\r\n");
        for recipient in to {
            commands.push_str(&format!("RCPT TO:<{recipient}>\r\n"));
        }
        commands.push_str("DATA\r\n");
        self.wire.write(commands.as_bytes()).await?;
        for _ in 0..to.len() + 1 {
            let reply = self.reply().await.context("MAIL and RCPT")?;
            if !reply.is_positive() {
                return Ok(reply);
            }
        }
        let reply = self.reply().await.context("DATA")?;
        if reply.code != 354 {
            return Ok(reply);
        }
        self.wire
            .write(&dot_stuffed(message))
            .await
            .context("sending the message")?;
        self.reply().await.context(AFTER_THE_DOT)
    }
}

async fn read_reply(wire: &mut Wire) -> anyhow::Result<Reply> {
    let mut lines = Vec::new();
    let mut first = None;
    loop {
        let line = wire.read_line().await?;
        let Some((code, more, text)) = parse_line(&line) else {
            bail!("not an SMTP reply: {:?}", String::from_utf8_lossy(&line));
        };
        ensure!(
            *first.get_or_insert(code) == code,
            "the lines of a reply have different codes: {lines:?} {code} {text}"
        );
        lines.push(text);
        if !more {
            return Ok(Reply { code, lines });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reply_lines() {
        assert_eq!(
            parse_line(b"250-SIZE 10"),
            Some((250, true, "SIZE 10".to_owned()))
        );
        assert_eq!(parse_line(b"354 go"), Some((354, false, "go".to_owned())));
        assert_eq!(parse_line(b"220"), Some((220, false, String::new())));
        assert_eq!(parse_line(b"2x0 no"), None);
        assert_eq!(parse_line(b"+20 no"), None);
        assert_eq!(parse_line(b"250_no"), None);
        assert_eq!(parse_line(b""), None);
    }

    #[test]
    fn dots_are_doubled_and_line_ends_made_whole() {
        assert_eq!(
            dot_stuffed(b"a\n.b\r\n..\nend"),
            b"a\r\n..b\r\n...\r\nend\r\n.\r\n"
        );
        assert_eq!(dot_stuffed(b""), b".\r\n");
    }

    #[test]
    fn replies_are_compared_as_they_read() {
        let reply = Reply {
            code: 523,
            lines: vec!["Encryption Needed: Invalid Unencrypted Mail".to_owned()],
        };
        reply
            .expect_line("523 Encryption Needed: Invalid Unencrypted Mail")
            .unwrap();
        assert!(reply.expect_line("523 Encryption Needed").is_err());
        reply.expect_start("523 Encryption Needed").unwrap();
        assert!(!reply.is_positive() && !reply.is_transient());
    }
}
