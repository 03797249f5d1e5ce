//! One connection from Postfix, which passes on the commands of its own client.

use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::BytesMut;
use memchr::memchr;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::{Instant, timeout};

use super::client::Reinjector;
use super::command::{Command, parse_command};
use super::data::{MessageData, Received};
use super::envelope::{Envelope, Path};
use super::large::Permit;
use super::server::{Admission, Policy, Server};
use crate::check::Verdict;
use crate::reply::Reply;

/// Longest silence of the client. Postfix waits equally long for its own client (`smtpd_timeout`).
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(300);
/// Longest wait for the client to read a reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a client may keep sending after the last reply before the connection is closed.
const LINGER: Duration = Duration::from_secs(1);
/// Maximum length of a command line; RFC 5321 requires 512, and DSN parameters (RFC 3461) need more.
const MAX_COMMAND: usize = 4096;
/// Maximum size of all recipients of a message with their parameters, which stay in memory as long as the message.
const MAX_RECIPIENTS_BYTES: usize = 512 * 1024;

/// Serves one connection to its end.
pub async fn serve_connection<S, P>(server: &Server<P>, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    P: Policy,
{
    let mut session = Session {
        server,
        stream,
        input: BytesMut::with_capacity(1024),
        output: Vec::new(),
        greeted: false,
        origin: None,
        sender: None,
        recipients: Vec::new(),
        recipients_bytes: 0,
        size: 0,
        reinjector: server.reinject.clone().map(Reinjector::new),
    };
    if let Err(error) = session.run().await {
        tracing::debug!("connection lost: {error}");
    }
    if let Some(reinjector) = session.reinjector {
        reinjector.close().await;
    }
}

struct Session<'a, S, P> {
    server: &'a Server<P>,
    stream: S,
    /// Received bytes that are not parsed yet.
    input: BytesMut,
    /// Replies that are not sent yet: replies to pipelined commands are sent together.
    output: Vec<u8>,
    greeted: bool,
    origin: Option<IpAddr>,
    sender: Option<Path>,
    recipients: Vec<Path>,
    recipients_bytes: usize,
    /// Size of the message that the client has declared.
    size: u64,
    reinjector: Option<Reinjector>,
}

/// A line from the client.
enum Line {
    Command(Vec<u8>),
    TooLong,
    /// The client is silent for too long, or the service is stopping.
    Close(Reply),
    End,
}

impl<S, P> Session<'_, S, P>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
    P: Policy,
{
    async fn run(&mut self) -> io::Result<()> {
        self.say(&Reply::GREETING);
        loop {
            let line = match self.line().await? {
                Line::Command(line) => line,
                Line::TooLong => {
                    self.say(&Reply::LINE_TOO_LONG);
                    continue;
                }
                Line::Close(reply) => return self.hang_up(&reply).await,
                Line::End => return Ok(()),
            };
            match parse_command(&line) {
                Ok(Command::Quit) => {
                    self.reset();
                    return self.hang_up(&Reply::BYE).await;
                }
                Ok(Command::Mail { sender, size }) => match self.mail(sender, size) {
                    Admission::Accept => self.say(&Reply::SENDER_OK),
                    Admission::Reject(reply) => self.say(&reply),
                    Admission::Close(reply) => return self.hang_up(&reply).await,
                },
                Ok(Command::Data) if self.sender.is_some() && !self.recipients.is_empty() => {
                    if !self.data().await? {
                        return Ok(());
                    }
                }
                Ok(Command::Rcpt(recipient)) => match self.recipient(recipient) {
                    Admission::Accept => self.say(&Reply::RECIPIENT_OK),
                    Admission::Reject(reply) => self.say(&reply),
                    Admission::Close(reply) => return self.hang_up(&reply).await,
                },
                Ok(command) => self.simple(command),
                Err(reply) => self.say(&reply),
            }
        }
    }

    /// Commands that change nothing beyond the session.
    fn simple(&mut self, command: Command) {
        match command {
            Command::Ehlo => {
                self.reset();
                self.greeted = true;
                let lines = Reply::ehlo(self.server.max_message_size);
                self.output.extend_from_slice(lines.as_bytes());
            }
            Command::Helo => {
                self.reset();
                self.greeted = true;
                self.say(&Reply::HELO);
            }
            Command::Xforward(origin) => {
                self.origin = origin;
                self.say(&Reply::OK);
            }
            Command::Rset => {
                self.reset();
                self.say(&Reply::OK);
            }
            Command::Noop => self.say(&Reply::OK),
            Command::Vrfy => self.say(&Reply::CANNOT_VERIFY),
            Command::Data | Command::Mail { .. } | Command::Quit | Command::Rcpt(_) => {
                self.say(&Reply::BAD_SEQUENCE);
            }
        }
    }

    fn mail(&mut self, sender: Path, size: u64) -> Admission {
        if !self.greeted || self.sender.is_some() {
            return Admission::Reject(Reply::BAD_SEQUENCE);
        }
        if size > self.server.max_message_size as u64 {
            return Admission::Reject(Reply::TOO_LARGE);
        }
        let admission = self.server.policy.sender(&sender.address);
        if admission == Admission::Accept {
            self.sender = Some(sender);
            self.size = size;
        }
        admission
    }

    fn recipient(&mut self, recipient: Path) -> Admission {
        if self.sender.is_none() {
            return Admission::Reject(Reply::BAD_SEQUENCE);
        }
        let bytes = self.recipients_bytes + recipient.address.len() + recipient.parameters.len();
        if self.recipients.len() >= self.server.max_recipients || bytes > MAX_RECIPIENTS_BYTES {
            return Admission::Reject(Reply::TOO_MANY_RECIPIENTS);
        }
        let admission = self.server.policy.recipient(&recipient.address);
        if admission == Admission::Accept {
            self.recipients_bytes = bytes;
            self.recipients.push(recipient);
        }
        admission
    }

    fn reset(&mut self) {
        self.sender = None;
        self.recipients.clear();
        self.recipients_bytes = 0;
    }

    /// Receives a message and replies to it. False when the client has closed the connection, or there is no reply.
    async fn data(&mut self) -> io::Result<bool> {
        let mut envelope = Envelope {
            sender: self.sender.take().unwrap_or_default(),
            recipients: std::mem::take(&mut self.recipients),
            origin: self.origin.take(),
        };
        self.recipients_bytes = 0;
        // Held until the reply is sent, and so for as long as the message is in memory.
        let mut permit = None;
        let declared = usize::try_from(self.size).unwrap_or(usize::MAX);
        if self.server.trusts_sizes && self.server.large.concerns(declared) {
            self.flush().await?;
            permit = self.server.permit(&envelope).await;
            if permit.is_none() {
                self.hang_up(&Reply::BUSY).await?;
                return Ok(false);
            }
        }
        self.say(&Reply::START_DATA);
        self.flush().await?;
        let Some(received) = self.receive(&envelope, &mut permit).await? else {
            return Ok(false);
        };
        let begin = Instant::now();
        let mut reinjection = Duration::ZERO;
        let policy = &self.server.policy;
        let mut accepted = None;
        let verdict = match received {
            Received::TooLarge => policy.malformed(Reply::TOO_LARGE),
            Received::HeaderTooLarge => policy.malformed(Reply::HEADER_TOO_LARGE),
            Received::BareLineBreak => policy.malformed(Reply::BARE_LINE_BREAK),
            Received::Message(message) => policy.judge(&mut envelope, accepted.insert(message)).await,
        };
        let reply = match (verdict, &accepted, &mut self.reinjector) {
            (Verdict::Reject(reply) | Verdict::Answered(reply), ..) => reply,
            (Verdict::Unanswered, ..) => return Ok(false),
            (Verdict::Accept, Some(message), Some(reinjector)) => {
                let begin = Instant::now();
                let large = self.server.large.concerns(message.len());
                let reply = reinjector.send(&envelope, message, large).await;
                reinjection = begin.elapsed();
                reply
            }
            (Verdict::Accept, ..) => Reply::REINJECT_FAILED,
        };
        self.server.policy.answered(&reply, begin.elapsed());
        self.say(&reply);
        let sent = self.flush().await;
        if let Some(reinjector) = &mut self.reinjector {
            reinjector.report().await;
        }
        sent?;
        tracing::debug!(
            "pass took {} us, of which reinjection {} us",
            begin.elapsed().as_micros(),
            reinjection.as_micros()
        );
        Ok(true)
    }

    /// Receives message data to its end. Returns `None` if the client closes the connection or is silent for too long.
    async fn receive(
        &mut self,
        envelope: &Envelope,
        permit: &mut Option<Permit>,
    ) -> io::Result<Option<Received>> {
        let mut data = MessageData::new(self.server.max_message_size, 0);
        data.buffer().extend_from_slice(&self.input);
        self.input.clear();
        while !data.advance() {
            if self.server.large.concerns(data.held()) && permit.is_none() {
                *permit = self.server.permit(envelope).await;
                if permit.is_none() {
                    self.hang_up(&Reply::BUSY).await?;
                    return Ok(None);
                }
            }
            match timeout(IDLE_TIMEOUT, self.stream.read_buf(data.buffer())).await {
                Ok(read) => {
                    if read? == 0 {
                        return Ok(None);
                    }
                }
                Err(_) => {
                    self.hang_up(&Reply::TIMEOUT).await?;
                    return Ok(None);
                }
            }
        }
        let (received, rest) = data.finish();
        self.input.extend_from_slice(&rest);
        Ok(Some(received))
    }

    /// The next command line. Replies are sent before waiting for one.
    async fn line(&mut self) -> io::Result<Line> {
        let mut too_long = false;
        loop {
            if let Some(end) = memchr(b'\n', &self.input) {
                // `split_to` copies nothing, however many commands have arrived at once.
                let mut line = self.input.split_to(end + 1).to_vec();
                line.truncate(end);
                // A lone LF stays in the line, where it is rejected like any control character.
                match line.pop() {
                    Some(b'\r') if line.len() <= MAX_COMMAND && !too_long => return Ok(Line::Command(line)),
                    Some(b'\r') => return Ok(Line::TooLong),
                    _ => return Ok(Line::Command(vec![b'\n'])),
                }
            }
            if self.input.len() > MAX_COMMAND {
                too_long = true;
                self.input.clear();
            }
            self.flush().await?;
            self.input.reserve(1024);
            let idle = self.sender.is_none();
            let read = tokio::select! {
                read = timeout(IDLE_TIMEOUT, self.stream.read_buf(&mut self.input)) => read,
                // A transaction that has started may continue; the drain has its own limit.
                () = self.server.shutdown.cancelled(), if idle => return Ok(Line::Close(Reply::SHUTTING_DOWN)),
            };
            match read {
                Ok(read) => {
                    if read? == 0 {
                        return Ok(Line::End);
                    }
                }
                Err(_) => return Ok(Line::Close(Reply::TIMEOUT)),
            }
        }
    }

    fn say(&mut self, reply: &Reply) {
        self.output.extend_from_slice(reply.as_str().as_bytes());
        self.output.extend_from_slice(b"\r\n");
    }

    async fn flush(&mut self) -> io::Result<()> {
        if !self.output.is_empty() {
            timeout(WRITE_TIMEOUT, self.stream.write_all(&self.output)).await??;
            self.output.clear();
        }
        Ok(())
    }

    /// Sends a last reply and closes the connection. Reads what the client still sends for a moment: closing a socket
    /// with unread bytes resets the connection, and the reply could be lost.
    async fn hang_up(&mut self, reply: &Reply) -> io::Result<()> {
        self.say(reply);
        self.flush().await?;
        self.stream.shutdown().await?;
        let drain = async {
            loop {
                self.input.clear();
                if !matches!(self.stream.read_buf(&mut self.input).await, Ok(1..)) {
                    return;
                }
            }
        };
        // The client has closed the connection by then, or has had enough time.
        let _ = timeout(LINGER, drain).await;
        Ok(())
    }
}
