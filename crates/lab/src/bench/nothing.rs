//! A relay that does nothing: it speaks as much SMTP (RFC 5321) and IMAP (RFC 3501, RFC 2177) as Delta Chat needs, has no
//! accounts, stores nothing on disk, and gives each message to its receiver at once.
//! What a message takes with it is the client's own time.

use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;
use tokio_util::sync::{CancellationToken, DropGuard};

type Stream = BufReader<TlsStream<TcpStream>>;

/// The messages of an address, from UID 1. None is ever removed, so UIDs are sequence numbers.
#[derive(Clone)]
struct Mailbox(watch::Sender<Vec<Arc<[u8]>>>);

/// The mailboxes, by address.
#[derive(Clone, Default)]
struct Mailboxes(Arc<Mutex<HashMap<String, Mailbox>>>);

impl Mailboxes {
    fn of(&self, address: &str) -> Mailbox {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let new = || Mailbox(watch::Sender::new(Vec::new()));
        all.entry(address.to_ascii_lowercase())
            .or_insert_with(new)
            .clone()
    }
}

/// A running relay; stops when dropped.
pub(super) struct Nothing {
    imap: SocketAddr,
    smtp: SocketAddr,
    _stop: DropGuard,
}

impl Nothing {
    /// Starts the relay with this certificate chain and key on two free ports of the loopback interface.
    pub(super) async fn start(certificate: &(String, String)) -> anyhow::Result<Self> {
        let acceptor = crate::harness::tls::acceptor(certificate, &[])?;
        let (stop, mailboxes) = (CancellationToken::new(), Mailboxes::default());
        let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); 2];
        for (address, serve) in addresses.iter_mut().zip([Serve::Imap, Serve::Smtp]) {
            let listener = TcpListener::bind(*address).await?;
            *address = listener.local_addr()?;
            let accepting = accept(listener, acceptor.clone(), serve, mailboxes.clone(), stop.clone());
            tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        }
        let [imap, smtp] = addresses;
        Ok(Self {
            imap,
            smtp,
            _stop: stop.drop_guard(),
        })
    }

    /// Delta Chat's code for logging in here.
    pub(super) fn code(&self, user: &str) -> String {
        let (imap, smtp) = (self.imap, self.smtp);
        format!(
            "dclogin:{user}@nothing.test?p=password&v=1&ih={}&ip={}&is=ssl&ic=3&sh={}&sp={}&ss=ssl&sc=3",
            imap.ip(),
            imap.port(),
            smtp.ip(),
            smtp.port()
        )
    }
}

#[derive(Clone, Copy)]
enum Serve {
    Imap,
    Smtp,
}

async fn accept(
    listener: TcpListener,
    acceptor: TlsAcceptor,
    serve: Serve,
    mailboxes: Mailboxes,
    stop: CancellationToken,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, mailboxes) = (acceptor.clone(), mailboxes.clone());
        // A client that goes away, or says what this server does not know, ends its session.
        tokio::spawn(stop.clone().run_until_cancelled_owned(async move {
            stream.set_nodelay(true)?;
            let stream = BufReader::with_capacity(64 * 1024, acceptor.accept(stream).await?);
            match serve {
                Serve::Imap => imap(stream, &mailboxes).await,
                Serve::Smtp => smtp(stream, &mailboxes).await,
            }
        }));
    }
}

/// Writes a reply at once.
async fn say(stream: &mut Stream, text: impl AsRef<[u8]>) -> std::io::Result<()> {
    stream.write_all(text.as_ref()).await?;
    stream.flush().await
}

/// The next line without its end; none if the client has gone.
async fn line(stream: &mut Stream) -> anyhow::Result<Option<String>> {
    let mut line = String::new();
    if stream.read_line(&mut line).await? == 0 {
        return Ok(None);
    }
    Ok(Some(line.trim_end().to_owned()))
}

async fn smtp(mut stream: Stream, mailboxes: &Mailboxes) -> anyhow::Result<()> {
    say(&mut stream, "220 nothing.test ESMTP\r\n").await?;
    let mut recipients = Vec::new();
    while let Some(command) = line(&mut stream).await? {
        let verb = command.get(..4).unwrap_or_default().to_ascii_uppercase();
        let reply = match verb.as_str() {
            "EHLO" => "250-nothing.test\r\n250-PIPELINING\r\n250-8BITMIME\r\n250 AUTH PLAIN\r\n",
            "AUTH" => "235 welcome\r\n",
            "MAIL" => {
                recipients.clear();
                "250 sender\r\n"
            }
            "RCPT" => {
                let path = command.split(['<', '>']).nth(1).context("no path")?;
                recipients.push(mailboxes.of(path));
                "250 recipient\r\n"
            }
            "DATA" => {
                say(&mut stream, "354 go on\r\n").await?;
                let message: Arc<[u8]> = data(&mut stream).await?.into();
                for Mailbox(messages) in &recipients {
                    messages.send_modify(|all| all.push(Arc::clone(&message)));
                }
                "250 accepted\r\n"
            }
            "QUIT" => return Ok(say(&mut stream, "221 bye\r\n").await?),
            _ => "250 done\r\n",
        };
        say(&mut stream, reply).await?;
    }
    Ok(())
}

/// The lines up to the final dot (RFC 5321 section 4.5.2).
async fn data(stream: &mut Stream) -> anyhow::Result<Vec<u8>> {
    let mut message = Vec::new();
    loop {
        let start = message.len();
        anyhow::ensure!(
            stream.read_until(b'\n', &mut message).await? > 0,
            "the client has gone"
        );
        if message.get(start..) == Some(b".\r\n") {
            message.truncate(start);
            return Ok(message);
        }
        if message.get(start) == Some(&b'.') {
            message.remove(start);
        }
    }
}

const CAPABILITIES: &str = "IMAP4rev1 IDLE SASL-IR AUTH=PLAIN";

async fn imap(mut stream: Stream, mailboxes: &Mailboxes) -> anyhow::Result<()> {
    say(&mut stream, format!("* OK [CAPABILITY {CAPABILITIES}] ready\r\n")).await?;
    let mut inbox = mailboxes.of("").0.subscribe();
    while let Some(command) = line(&mut stream).await? {
        let (tag, command) = command.split_once(' ').unwrap_or((&command, "NOOP"));
        let (verb, arguments) = command.split_once(' ').unwrap_or((command, ""));
        let mut reply = Vec::new();
        match verb.to_ascii_uppercase().as_str() {
            "CAPABILITY" => reply.extend(format!("* CAPABILITY {CAPABILITIES}\r\n").into_bytes()),
            "LOGIN" => {
                let user = arguments.split_whitespace().next().unwrap_or_default();
                inbox = mailboxes.of(user.trim_matches('"')).0.subscribe();
            }
            "AUTHENTICATE" => {
                let response = STANDARD.decode(arguments.split_whitespace().nth(1).unwrap_or_default())?;
                let user = response.split(|byte| *byte == 0).nth(1).unwrap_or_default();
                inbox = mailboxes.of(std::str::from_utf8(user)?).0.subscribe();
            }
            "LIST" => reply.extend_from_slice(b"* LIST () \"/\" INBOX\r\n"),
            "SELECT" | "EXAMINE" => {
                let count = inbox.borrow_and_update().len();
                reply.extend(
                    format!(
                        "* FLAGS (\\Seen \\Deleted)\r\n* {count} EXISTS\r\n* 0 RECENT\r\n\
                         * OK [UIDVALIDITY 1] valid\r\n* OK [UIDNEXT {}] next\r\n",
                        count + 1
                    )
                    .into_bytes(),
                );
            }
            "STATUS" => {
                let count = inbox.borrow().len();
                let next = count + 1;
                reply.extend(
                    format!("* STATUS INBOX (MESSAGES {count} UIDNEXT {next} UIDVALIDITY 1)\r\n")
                        .into_bytes(),
                );
            }
            "UID" if arguments.to_ascii_uppercase().starts_with("FETCH ") => {
                fetch(
                    &inbox.borrow(),
                    arguments.get(6..).unwrap_or_default(),
                    &mut reply,
                );
            }
            "IDLE" => {
                say(&mut stream, "+ idling\r\n").await?;
                idle(&mut stream, &mut inbox).await?;
            }
            _ => {}
        }
        reply.extend(format!("{tag} OK done\r\n").into_bytes());
        say(&mut stream, reply).await?;
    }
    Ok(())
}

/// Tells of new messages until the client ends IDLE.
async fn idle(stream: &mut Stream, inbox: &mut watch::Receiver<Vec<Arc<[u8]>>>) -> anyhow::Result<()> {
    loop {
        let done = tokio::select! {
            ended = line(stream) => Some(ended?),
            changed = inbox.changed() => changed.map(|()| None)?,
        };
        if done.is_some() {
            return Ok(());
        }
        let count = inbox.borrow_and_update().len();
        say(stream, format!("* {count} EXISTS\r\n")).await?;
    }
}

/// Answers `UID FETCH`: the header or the whole of the messages in a set.
fn fetch(messages: &[Arc<[u8]>], arguments: &str, reply: &mut Vec<u8>) {
    let (set, items) = arguments.split_once(' ').unwrap_or((arguments, ""));
    for (index, message) in messages.iter().enumerate() {
        let uid = index + 1;
        if !contains(set, uid) {
            continue;
        }
        let section = items
            .split_once("BODY.PEEK[")
            .and_then(|(_, rest)| Some(rest.split_once(']')?.0));
        let section = section.unwrap_or_default();
        let header = message
            .windows(4)
            .position(|four| four == b"\r\n\r\n")
            .map_or(0, |end| end + 4);
        let shown = if section.is_empty() {
            &message[..]
        } else {
            message.get(..header).unwrap_or_default()
        };
        reply.extend(
            format!(
                "* {uid} FETCH (UID {uid} FLAGS () RFC822.SIZE {} INTERNALDATE \"01-Jan-2026 00:00:00 +0000\" \
                 BODY[{section}] {{{}}}\r\n",
                message.len(),
                shown.len()
            )
            .into_bytes(),
        );
        reply.extend_from_slice(shown);
        reply.extend_from_slice(b")\r\n");
    }
}

/// Whether a set such as `1,4:*` contains a UID (RFC 3501 section 9, `sequence-set`).
fn contains(set: &str, uid: usize) -> bool {
    let number = |text: &str| {
        if text == "*" {
            Some(usize::MAX)
        } else {
            text.parse().ok()
        }
    };
    set.split(',').any(|range| {
        let (from, to) = range.split_once(':').unwrap_or((range, range));
        matches!((number(from), number(to)), (Some(from), Some(to)) if (from..=to).contains(&uid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sets_are_numbers_and_ranges() {
        assert!(contains("3", 3));
        assert!(contains("1,4:*", 9));
        assert!(!contains("1,4:*", 3));
        assert!(!contains("x", 1));
    }

    #[test]
    fn a_header_or_the_whole_message_is_fetched() {
        let messages: Vec<Arc<[u8]>> = vec![Arc::from(&b"A: b\r\n\r\nbody\r\n"[..])];
        let answer = |items: &str| {
            let mut reply = Vec::new();
            fetch(&messages, items, &mut reply);
            String::from_utf8(reply).unwrap()
        };
        assert!(answer("1:* (UID BODY.PEEK[HEADER.FIELDS (A)])").ends_with("(A)] {8}\r\nA: b\r\n\r\n)\r\n"));
        assert!(answer("1 (FLAGS BODY.PEEK[])").ends_with("BODY[] {14}\r\nA: b\r\n\r\nbody\r\n)\r\n"));
        assert!(answer("2:* (FLAGS BODY.PEEK[])").is_empty());
    }
}
