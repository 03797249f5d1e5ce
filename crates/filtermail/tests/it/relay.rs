//! Both sides of a filter: a Postfix to which it returns messages, and a client that sends raw bytes.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use chatmail_core::settings::LargeMessages;
use filtermail::smtp::{Large, Policy, Server, Target, serve_connection};
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixListener};
use tokio::sync::mpsc;

/// Messages that a filter returns at once.
pub(crate) const TURNS: usize = 2;

/// Large messages, as the module sets them.
pub(crate) const LARGE: LargeMessages = LargeMessages {
    above: 1 << 20,
    at_once: 8,
};

/// A message returned to Postfix.
#[derive(Debug, PartialEq)]
pub(crate) struct Delivered {
    pub(crate) commands: Vec<String>,
    /// As on the wire, dots doubled, without the final one.
    pub(crate) data: Vec<u8>,
}

/// Starts a Postfix that replies to each message with `answer`, and collects the messages.
pub(crate) async fn postfix(answer: &'static str) -> (SocketAddr, mpsc::UnboundedReceiver<Delivered>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(postfix_session(stream, answer, sender.clone()));
        }
    });
    (address, receiver)
}

/// The same at a Unix socket.
pub(crate) fn postfix_at(path: &std::path::Path, answer: &'static str) -> mpsc::UnboundedReceiver<Delivered> {
    let listener = UnixListener::bind(path).unwrap();
    let (sender, receiver) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(postfix_session(stream, answer, sender.clone()));
        }
    });
    receiver
}

async fn postfix_session(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    answer: &str,
    delivered: mpsc::UnboundedSender<Delivered>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    stream.write_all(b"220 sink\r\n").await?;
    let mut commands = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let line = line.trim_end().to_owned();
        if line.starts_with("PROXY ") {
            commands.push(line);
            continue;
        }
        let reply = match line.get(..4).unwrap_or_default() {
            "EHLO" => "250-sink\r\n250 PIPELINING",
            "DATA" => "354 go",
            "RCPT" if line.contains("refused@") => "550 5.1.1 No such user",
            _ => "250 2.0.0 Ok",
        };
        if matches!(line.get(..4), Some("MAIL" | "RCPT")) {
            commands.push(line.clone());
        }
        stream.write_all(format!("{reply}\r\n").as_bytes()).await?;
        if line == "DATA" {
            let mut data = Vec::new();
            loop {
                let begin = data.len();
                if stream.read_until(b'\n', &mut data).await? == 0 {
                    return Ok(());
                }
                if &data[begin..] == b".\r\n" {
                    data.truncate(begin);
                    break;
                }
            }
            let commands = std::mem::take(&mut commands);
            let _ = delivered.send(Delivered { commands, data });
            stream.write_all(format!("{answer}\r\n").as_bytes()).await?;
        }
    }
}

/// A filter's shared state.
pub(crate) fn server<P: Policy>(policy: P, reinject: impl Into<chatmail_core::Endpoint>) -> Server<P> {
    Server {
        policy,
        max_message_size: 100_000,
        max_recipients: 1000,
        reinject: Some(Arc::new(Target::with_turns(reinject.into(), TURNS))),
        large: Large::new(LARGE, std::time::Duration::from_secs(300)),
        trusts_sizes: false,
        shutdown: daemon::CancellationToken::new(),
    }
}

/// Serves one connection; the client's end of it.
pub(crate) async fn connect<P: Policy + Send + 'static>(server: &Arc<Server<P>>) -> Client {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
    let (accepted, _) = listener.accept().await.unwrap();
    accepted.set_nodelay(true).unwrap();
    let server = Arc::clone(server);
    tokio::spawn(async move { serve_connection(&server, accepted).await });
    let mut client = Client(BufReader::new(stream));
    assert_eq!(client.reply().await, "220 filtermail ESMTP");
    client
}

/// A client that sends raw bytes.
pub(crate) struct Client(BufReader<TcpStream>);

impl Client {
    /// Writes bytes as they are.
    pub(crate) async fn write(&mut self, bytes: impl AsRef<[u8]>) {
        self.0.write_all(bytes.as_ref()).await.unwrap();
    }

    /// Last line of the next reply; empty at the end.
    pub(crate) async fn reply(&mut self) -> String {
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).await.unwrap();
            if line.as_bytes().get(3) != Some(&b'-') {
                return line.trim_end().to_owned();
            }
        }
    }

    /// Sends a line and awaits its reply.
    pub(crate) async fn say(&mut self, line: &str) -> String {
        self.write(format!("{line}\r\n")).await;
        self.reply().await
    }

    /// Sends a message on a fresh or used connection and returns the reply to its last step.
    pub(crate) async fn send(&mut self, from: &str, to: &[&str], message: &[u8]) -> String {
        self.say("EHLO test").await;
        let mut reply = self.say(&format!("MAIL FROM:<{from}>")).await;
        for to in to {
            if !reply.starts_with('2') {
                return reply;
            }
            reply = self.say(&format!("RCPT TO:<{to}>")).await;
        }
        assert_eq!(self.say("DATA").await, "354 End data with <CR><LF>.<CR><LF>");
        for piece in filtermail::smtp::stuffed(message) {
            self.write(piece).await;
        }
        self.reply().await
    }

    /// Everything until the other side closes.
    pub(crate) async fn rest(&mut self) -> String {
        let mut rest = String::new();
        self.0.read_to_string(&mut rest).await.unwrap();
        rest
    }
}
