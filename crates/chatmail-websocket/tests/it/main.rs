//! The real binary between a client and a mail server that the test plays.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "helpers of tests are tests"
)]

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::process::{Child, Command};
use std::time::Duration;

use chatmail_core::Settings;
use futures_util::{SinkExt as _, StreamExt as _};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::time::timeout;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{WebSocketStream, client_async};

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);
/// Length of the PROXY header for an IPv4 client.
const PROXY: usize = 36;
/// More than the buffers of all sockets on the way.
const MUCH: usize = 64 * 1024 * 1024;

struct Service {
    child: Child,
    socket: PathBuf,
    smtp: PathBuf,
    _dir: TempDir,
}

impl Service {
    /// Starts the binary with the sample settings, and waits for its READY.
    fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(sample, "sample".as_ref()).unwrap();
        let socket = dir.path().join("websocket.socket");
        let smtp = dir.path().join("smtp.socket");
        settings.websocket.socket = socket.clone();
        settings.websocket.smtp = format!("unix:{}", smtp.display()).parse().unwrap();
        let path = dir.path().join("settings.json");
        std::fs::write(&path, serde_json::to_string(&settings).unwrap()).unwrap();
        let notify = dir.path().join("notify");
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_chatmail-websocket"))
            .arg("--settings")
            .arg(&path)
            .env("NOTIFY_SOCKET", &notify)
            .env_remove("JOURNAL_STREAM")
            .spawn()
            .unwrap();
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).unwrap();
        assert!(message[..length].starts_with(b"READY=1"));
        Self {
            child,
            socket,
            smtp,
            _dir: dir,
        }
    }

    /// Opens a WebSocket for SMTP, as nginx passes it on.
    async fn open(&self) -> Result<WebSocketStream<UnixStream>, Error> {
        let mut request = "ws://chat.example.org/smtp".into_client_request()?;
        request
            .headers_mut()
            .insert("x-real-ip", "192.0.2.7".parse().unwrap());
        let stream = UnixStream::connect(&self.socket).await?;
        Ok(client_async(request, stream).await?.0)
    }

    /// Opens a session with a mail server.
    async fn session(&self) -> (WebSocketStream<UnixStream>, UnixStream) {
        let listener = UnixListener::bind(&self.smtp).unwrap();
        let (client, server) = tokio::join!(self.open(), async {
            let (mut server, _) = listener.accept().await.unwrap();
            let mut header = [0; PROXY];
            server.read_exact(&mut header).await.unwrap();
            // Version 2 of the protocol, TCP over IPv4, the address of the client.
            assert_eq!(header[..12], *b"\r\n\r\n\0\r\nQUIT\n");
            assert_eq!(header[12..20], [0x21, 0x11, 0, 20, 192, 0, 2, 7]);
            server
        });
        (client.unwrap(), server)
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn close_code(client: &mut WebSocketStream<UnixStream>) -> CloseCode {
    loop {
        match timeout(DEADLINE, client.next()).await.unwrap().unwrap().unwrap() {
            Message::Close(frame) => return frame.unwrap().code,
            _ => continue,
        }
    }
}

#[tokio::test]
async fn bytes_pass_in_both_directions_until_the_server_ends() {
    let service = Service::start();
    let (mut client, mut server) = service.session().await;
    server.write_all(b"220 hello\r\n").await.unwrap();
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(&b"220 hello\r\n"[..])
    );
    client.send(Message::binary(&b"QU"[..])).await.unwrap();
    client
        .send(Message::Ping(b"x"[..].to_vec().into()))
        .await
        .unwrap();
    client.send(Message::binary(&b"IT\r\n"[..])).await.unwrap();
    let mut command = [0; 6];
    server.read_exact(&mut command).await.unwrap();
    assert_eq!(command, *b"QUIT\r\n");
    let pong = client.next().await.unwrap().unwrap();
    assert_eq!(pong, Message::Pong(b"x"[..].to_vec().into()));
    server.write_all(b"221 bye\r\n").await.unwrap();
    drop(server);
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(&b"221 bye\r\n"[..])
    );
    assert_eq!(close_code(&mut client).await, CloseCode::Normal);
}

/// The last reply of a server that closes while the client still sends reaches the client.
#[tokio::test]
async fn the_last_reply_arrives() {
    let service = Service::start();
    let (mut client, mut server) = service.session().await;
    server.write_all(b"421 too many errors\r\n").await.unwrap();
    drop(server);
    let _ = client.send(Message::binary(vec![0; 1024])).await;
    assert_eq!(
        client.next().await.unwrap().unwrap(),
        Message::binary(&b"421 too many errors\r\n"[..])
    );
    assert_eq!(close_code(&mut client).await, CloseCode::Normal);
}

#[tokio::test]
async fn a_server_that_is_not_there() {
    let service = Service::start();
    match service.open().await {
        Err(Error::Http(response)) => assert_eq!(response.status(), 503),
        other => panic!("{:?}", other.err()),
    }
}

/// A server that does not read stops the client, and what it then reads is complete.
#[tokio::test]
async fn nothing_piles_up() {
    let service = Service::start();
    let (mut client, mut server) = service.session().await;
    let sending = tokio::spawn(async move {
        client.send(Message::binary(vec![b'x'; MUCH])).await.unwrap();
        client
    });
    // The service has read what fits into buffers, a small part of it.
    let status = format!("/proc/{}/status", service.child.id());
    let mut read = 0;
    let mut buffer = vec![0; 1 << 20];
    while read < MUCH {
        let text = std::fs::read_to_string(&status).unwrap();
        let peak = text.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        let peak: usize = peak.trim().strip_suffix(" kB").unwrap().parse().unwrap();
        assert!(peak < 24 * 1024, "{peak} KiB");
        let length = timeout(DEADLINE, server.read(&mut buffer))
            .await
            .unwrap()
            .unwrap();
        assert!(length > 0 && buffer[..length].iter().all(|byte| *byte == b'x'));
        read += length;
    }
    sending.await.unwrap();
    assert_eq!(read, MUCH);
}

#[tokio::test]
async fn clients_are_told_when_the_service_stops() {
    let mut service = Service::start();
    let (mut client, _server) = service.session().await;
    service.terminate();
    assert_eq!(close_code(&mut client).await, CloseCode::Away);
    assert!(service.child.wait().unwrap().success());
}
