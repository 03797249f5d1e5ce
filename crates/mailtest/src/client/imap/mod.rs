//! A small IMAP client (RFC 9051) that returns every response unchanged.
//!
//! Client libraries hide what scenarios need. Scenarios write commands as text: every command that the relay offers,
//! with literals, wrong arguments and a name that does not exist (`every-imap-command`). They check the exact greeting
//! and response texts of the server (`wrong-password-refused`). They must see data that arrives before the TLS
//! handshake (`WireError::Injected`), and when an IDLE notification arrives (`idle-wakes-the-receiver`).

mod metadata;
mod parse;

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};

pub use self::parse::{Response, Status, Value};
use super::tls::Tls;
use super::wire::{Wire, WireError};

/// All responses to a command.
#[derive(Debug)]
pub struct Completed {
    /// Status of the command.
    pub status: Status,
    /// Text of the tagged response, with its code in brackets.
    pub text: String,
    /// The untagged responses before it.
    pub responses: Vec<Response>,
}

impl Completed {
    /// Returns this completion, or an error that quotes the server if the command failed.
    pub fn ok(self) -> anyhow::Result<Self> {
        ensure!(
            self.status == Status::Ok,
            "the server responded: {:?} {}",
            self.status,
            self.text
        );
        Ok(self)
    }

    /// Returns the values of every data response with this name.
    pub fn data(&self, want: &str) -> impl Iterator<Item = &[Value]> {
        self.responses.iter().filter_map(move |response| match response {
            Response::Data { name, values, .. } if name == want => Some(values.as_slice()),
            _ => None,
        })
    }
}

/// Returns the capabilities in a `[CAPABILITY …]` code at the start of a text.
fn capability_code(text: &str) -> Option<Vec<String>> {
    let (list, _) = text.strip_prefix("[CAPABILITY ")?.split_once(']')?;
    Some(list.split(' ').map(str::to_owned).collect())
}

/// A session with an IMAP server.
pub struct Imap {
    wire: Wire,
    greeting: String,
    tags: u32,
    exists: u32,
}

impl Imap {
    /// Connects without encryption and reads the greeting.
    pub async fn connect(address: SocketAddr) -> anyhow::Result<Self> {
        Self::greeted(Wire::connect(address).await?).await
    }

    /// Connects with TLS from the first byte and reads the greeting.
    pub async fn connect_tls(address: SocketAddr, tls: &Tls, name: &str) -> anyhow::Result<Self> {
        Self::greeted(Wire::connect_tls(address, tls, name).await?).await
    }

    /// Reads the greeting.
    pub(super) async fn greeted(wire: Wire) -> anyhow::Result<Self> {
        let mut imap = Self {
            wire,
            greeting: String::new(),
            tags: 0,
            exists: 0,
        };
        match imap.response().await.context("waiting for the greeting")? {
            Response::Status(Status::Ok, text) => imap.greeting = text,
            other => bail!("not a greeting: {other:?}"),
        }
        Ok(imap)
    }

    /// Returns the capabilities that the server announced before login.
    pub fn greeting_capabilities(&self) -> Vec<String> {
        capability_code(&self.greeting).unwrap_or_default()
    }

    /// Sends STARTTLS and performs the handshake, without a server name as Delta Chat does.
    pub async fn starttls(mut self, tls: &Tls, name: &str) -> anyhow::Result<Self> {
        self.command("STARTTLS").await?.ok()?;
        let wire = self.wire.handshake(&tls.clone().without_sni(), name).await?;
        Ok(Self { wire, ..self })
    }

    /// Reads one response, with its literals.
    pub async fn response(&mut self) -> anyhow::Result<Response> {
        let line = self.wire.read_line().await?;
        self.complete(line).await
    }

    async fn complete(&mut self, mut bytes: Vec<u8>) -> anyhow::Result<Response> {
        let mut line_start = 0;
        while let Some(length) = bytes.get(line_start..).and_then(parse::literal_length) {
            bytes.extend_from_slice(b"\r\n");
            bytes.extend(self.wire.read_exact(length).await?);
            line_start = bytes.len();
            bytes.extend(self.wire.read_line().await?);
        }
        let response = parse::parse(&bytes)?;
        if let Response::Data {
            number: Some(number),
            name,
            ..
        } = &response
        {
            match name.as_str() {
                "EXISTS" => self.exists = *number,
                "EXPUNGE" => self.exists = self.exists.saturating_sub(1),
                _ => {}
            }
        }
        Ok(response)
    }

    /// Returns the number of messages in the selected folder that the server last announced.
    pub fn exists(&self) -> u32 {
        self.exists
    }

    /// Sends a command and reads all responses up to its completion.
    pub async fn command(&mut self, command: &str) -> anyhow::Result<Completed> {
        let tag = self.start(command).await?;
        self.finish(&tag).await
    }

    async fn start(&mut self, command: &str) -> anyhow::Result<String> {
        self.tags += 1;
        let tag = format!("A{:04}", self.tags);
        self.wire.write(format!("{tag} {command}\r\n").as_bytes()).await?;
        Ok(tag)
    }

    async fn finish(&mut self, tag: &str) -> anyhow::Result<Completed> {
        let mut responses = Vec::new();
        loop {
            match self.response().await? {
                Response::Done {
                    tag: done,
                    status,
                    text,
                } => {
                    ensure!(done == tag, "the server completed {done}, which is not running");
                    return Ok(Completed {
                        status,
                        text,
                        responses,
                    });
                }
                other => responses.push(other),
            }
        }
    }

    /// Sends LOGIN with quoted arguments, as Delta Chat does.
    pub async fn login(&mut self, user: &str, password: &str) -> anyhow::Result<Completed> {
        let command = format!("LOGIN {} {}", quoted(user), quoted(password));
        // The line contains the password, so errors never quote it.
        self.command(&command).await.context("LOGIN")
    }

    /// Returns the capabilities after login: from the response to LOGIN, or else from CAPABILITY.
    pub async fn capabilities(&mut self, login: &Completed) -> anyhow::Result<Vec<String>> {
        if let Some(capabilities) = capability_code(&login.text) {
            return Ok(capabilities);
        }
        let answer = self.command("CAPABILITY").await?.ok()?;
        Ok(answer
            .data("CAPABILITY")
            .flatten()
            .filter_map(Value::as_text)
            .collect())
    }

    /// Selects INBOX and returns the number of messages in it.
    pub async fn select_inbox(&mut self) -> anyhow::Result<u32> {
        self.exists = 0;
        self.command("SELECT \"INBOX\"").await?.ok()?;
        Ok(self.exists)
    }

    /// Fetches the whole message with this sequence number without marking it as seen.
    pub async fn fetch(&mut self, sequence: u32) -> anyhow::Result<Vec<u8>> {
        let fetched = self
            .command(&format!("FETCH {sequence} (UID BODY.PEEK[])"))
            .await?
            .ok()?;
        for values in fetched.data("FETCH") {
            let items = values.first().and_then(Value::as_list).unwrap_or_default();
            for pair in items.chunks(2) {
                if let [Value::Atom(name), Value::Text(body)] = pair
                    && name == "BODY[]"
                {
                    return Ok(body.clone());
                }
            }
        }
        bail!("message {sequence} does not exist")
    }

    /// Returns the sequence numbers of the matching messages, in ascending order.
    pub async fn search(&mut self, criteria: &str) -> anyhow::Result<Vec<u32>> {
        self.numbers(&format!("SEARCH {criteria}")).await
    }

    async fn numbers(&mut self, search: &str) -> anyhow::Result<Vec<u32>> {
        let found = self.command(search).await?.ok()?;
        let numbers = found.data("SEARCH").flatten().filter_map(Value::as_text);
        numbers
            .map(|number| number.parse().context("SEARCH did not return a number"))
            .collect()
    }

    /// Deletes every message of the selected folder.
    pub async fn empty(&mut self) -> anyhow::Result<()> {
        self.command("STORE 1:* +FLAGS.SILENT (\\Deleted)").await?.ok()?;
        self.command("EXPUNGE").await?.ok()?;
        Ok(())
    }

    /// Deletes the message with this Message-ID from the selected folder, and no other (RFC 4315 section 2.1).
    pub async fn delete(&mut self, id: &str) -> anyhow::Result<()> {
        for uid in self
            .numbers(&format!("UID SEARCH HEADER Message-ID {id}"))
            .await?
        {
            self.command(&format!("UID STORE {uid} +FLAGS.SILENT (\\Deleted)"))
                .await?
                .ok()?;
            self.command(&format!("UID EXPUNGE {uid}")).await?.ok()?;
        }
        Ok(())
    }

    /// Starts IDLE (RFC 2177) and returns once the server has confirmed it.
    pub async fn idle(&mut self) -> anyhow::Result<Idle<'_>> {
        let tag = self.start("IDLE").await?;
        loop {
            match self.response().await? {
                Response::Continue(_) => return Ok(Idle { imap: self, tag }),
                Response::Done { text, .. } => bail!("the server ended IDLE at once: {text}"),
                // `response` counts new messages among these, so `exists` returns at once.
                Response::Data { .. } | Response::Status(..) => {}
            }
        }
    }
}

/// A session in IDLE.
pub struct Idle<'a> {
    imap: &'a mut Imap,
    tag: String,
}

impl<'a> Idle<'a> {
    /// Waits until the folder holds at least this many messages; returns their number and the time of the notification.
    pub async fn exists(&mut self, at_least: u32, within: Duration) -> anyhow::Result<(u32, Instant)> {
        let end = Instant::now() + within;
        if self.imap.exists >= at_least {
            return Ok((self.imap.exists, Instant::now()));
        }
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let line = match self.imap.wire.read_line_within(left).await {
                Err(WireError::Deadline(_)) => {
                    bail!("no notification of message {at_least} within {within:?}")
                }
                line => line?,
            };
            let now = Instant::now();
            match self.imap.complete(line).await? {
                Response::Data {
                    number: Some(number),
                    name,
                    ..
                } if name == "EXISTS" && number >= at_least => {
                    return Ok((number, now));
                }
                Response::Done { text, .. } => bail!("IDLE ended: {text}"),
                _ => {}
            }
        }
    }

    /// Ends IDLE; the connection can be used for commands again.
    pub async fn done(self) -> anyhow::Result<&'a mut Imap> {
        self.imap.wire.write(b"DONE\r\n").await?;
        self.imap.finish(&self.tag).await?.ok()?;
        Ok(self.imap)
    }
}

/// Returns a quoted string (RFC 9051, 4.3).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strings_are_quoted() {
        assert_eq!(quoted(r#"a"b\c"#), r#""a\"b\\c""#);
    }

    #[test]
    fn capabilities_in_brackets() {
        assert_eq!(
            capability_code("[CAPABILITY IMAP4rev1 IDLE] Logged in").unwrap(),
            ["IMAP4rev1", "IDLE"]
        );
        assert_eq!(capability_code("Logged in"), None);
    }
}
