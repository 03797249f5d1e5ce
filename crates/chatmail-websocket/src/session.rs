//! One connection: the handshake, and then two directions at once until one side ends.
//!
//! Each direction reads only after it has written what it read before, so a slow side slows the other side down and
//! nothing piles up. Buffers exist only while there is something to pass on: an idle session has none.

use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chatmail_core::settings::WebSocket;
use daemon::{CancellationToken, Stream};
use tokio::io::{AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{UnixStream, tcp, unix};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_util::either::Either;
use tungstenite::http::StatusCode;

use crate::frames::{self, Decoded, End, Frames};
use crate::handshake::{self, Granted, Protocol};
use crate::{metrics, proxy};

/// Maximum size of the head of a request: the 64 KiB that nginx accepts (`large_client_header_buffers`), and the fields
/// that it adds.
const MAX_HEAD: usize = 96 * 1024;
/// Time for the head of a request, which nginx passes on only once it is complete.
const HEAD: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(5);
/// Longest time without a byte from one side, as at the front. Dovecot and Postfix themselves end sessions of clients
/// that send no commands.
const IDLE: Duration = Duration::from_secs(35 * 60);
/// Longest time that one side may take until it reads again.
const STALL: Duration = Duration::from_secs(60);
/// Bytes that are read at once.
const BUFFER: usize = 16 * 1024;

/// What all connections share.
pub(crate) struct Door {
    pub(crate) settings: WebSocket,
}

/// Serves one connection of nginx.
pub(crate) async fn connection(door: Arc<Door>, mut client: UnixStream, shutdown: CancellationToken) {
    let Ok(head) = timeout(HEAD, head(&mut client)).await else {
        return;
    };
    let decided = head.and_then(|(request, rest)| Ok((handshake::decide(&request, &door.settings)?, rest)));
    let opened = match decided {
        Err(status) => Err(status),
        Ok((granted, rest)) => match door.connect(&granted).await {
            Ok(server) => Ok((granted, rest, server)),
            Err(error) => {
                let name = granted.protocol.name();
                tracing::warn!("cannot connect a session to the {name} server: {error}");
                metrics::unavailable(granted.protocol);
                Err(StatusCode::SERVICE_UNAVAILABLE)
            }
        },
    };
    match opened {
        Ok((granted, rest, server)) => {
            let _open = metrics::Open::new(granted.protocol);
            if write(&mut client, &granted.response).await.is_ok() {
                let end = relay(client, server, &rest, &shutdown).await;
                tracing::debug!("{} session ended: {end:?}", granted.protocol.name());
            }
        }
        Err(status) => {
            if status == StatusCode::INTERNAL_SERVER_ERROR {
                tracing::error!("nginx sends no valid X-Real-IP");
            }
            metrics::refused();
            let _ = write(&mut client, handshake::refusal(status).as_bytes()).await;
        }
    }
}

/// Reads the head of a request; also returns bytes after it.
async fn head(
    client: &mut UnixStream,
) -> Result<(tungstenite::handshake::server::Request, Vec<u8>), StatusCode> {
    let mut bytes = Vec::new();
    loop {
        let read = client.read_buf(&mut bytes).await;
        if !read.is_ok_and(|length| length > 0) {
            return Err(StatusCode::BAD_REQUEST);
        }
        if let Some((length, request)) = handshake::parse(&bytes)? {
            return Ok((request, bytes.split_off(length)));
        }
        if bytes.len() > MAX_HEAD {
            return Err(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
        }
    }
}

impl Door {
    /// Connects to the mail server, and tells it the address of the client.
    async fn connect(&self, granted: &Granted) -> io::Result<Stream> {
        let endpoint = match granted.protocol {
            Protocol::Imap => &self.settings.imap,
            Protocol::Smtp => &self.settings.smtp,
        };
        let mut server = timeout(CONNECT, daemon::connect(endpoint)).await??;
        write(&mut server, &proxy::header(granted.origin)).await?;
        Ok(server)
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    timeout(STALL, stream.write_all(bytes)).await?
}

/// What the client's side wants to be sent to the client.
#[derive(Default)]
struct Outbox {
    wanted: Mutex<Wanted>,
    changed: Notify,
    /// Whether a byte has passed since the last look.
    active: AtomicBool,
}

#[derive(Default)]
struct Wanted {
    /// Payload of the next pong. A new ping replaces one that has not been answered.
    pong: Option<Vec<u8>>,
    end: Option<End>,
}

impl Outbox {
    fn change(&self, change: impl FnOnce(&mut Wanted)) {
        change(&mut self.wanted.lock().unwrap_or_else(PoisonError::into_inner));
        self.changed.notify_one();
    }

    fn take(&self) -> (Option<Vec<u8>>, Option<End>) {
        let mut wanted = self.wanted.lock().unwrap_or_else(PoisonError::into_inner);
        (wanted.pong.take(), wanted.end)
    }
}

/// Passes bytes on in both directions until the session ends, and tells the client why.
async fn relay(client: UnixStream, server: Stream, first: &[u8], shutdown: &CancellationToken) -> End {
    let (client_read, client_write) = client.into_split();
    let (server_read, server_write) = match server {
        Either::Left(stream) => {
            let (read, write) = stream.into_split();
            (Either::Left(read), Either::Left(write))
        }
        Either::Right(stream) => {
            let (read, write) = stream.into_split();
            (Either::Right(read), Either::Right(write))
        }
    };
    let outbox = Outbox::default();
    let until_end = async {
        let end = tokio::select! {
            end = to_server(&client_read, server_write, first, &outbox) => end,
            end = idle(&outbox) => end,
            () = shutdown.cancelled() => End::Stopping,
        };
        outbox.change(|wanted| wanted.end = Some(end));
        std::future::pending().await
    };
    // Only this side writes to the client, and it is never interrupted within a frame.
    tokio::select! {
        end = to_client(&server_read, client_write, &outbox) => end,
        end = until_end => end,
    }
}

/// Decodes what the client sends.
async fn to_server(
    client: &unix::OwnedReadHalf,
    mut server: impl AsyncWrite + Unpin,
    first: &[u8],
    outbox: &Outbox,
) -> End {
    let mut frames = Frames::default();
    let mut decoded = frames.decode(first);
    loop {
        if !decoded.data.is_empty() {
            match timeout(STALL, server.write_all(&decoded.data)).await {
                Ok(Ok(())) => {}
                // The other direction still passes on the last reply, and then ends the session.
                Ok(Err(_)) => return std::future::pending().await,
                Err(_) => return End::Idle,
            }
        }
        if let Some(payload) = decoded.ping {
            outbox.change(|wanted| wanted.pong = Some(payload));
        }
        if let Some(end) = decoded.end {
            return end;
        }
        decoded = loop {
            if client.readable().await.is_err() {
                return End::Gone;
            }
            match read(client, &mut frames) {
                Ok(Some(decoded)) => break decoded,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Ok(None) | Err(_) => return End::Gone,
            }
        };
        outbox.active.store(true, Ordering::Relaxed);
    }
}

/// What the client has sent; `None` at the end.
// Not async, so that the buffer is not part of every idle session.
fn read(client: &unix::OwnedReadHalf, frames: &mut Frames) -> io::Result<Option<Decoded>> {
    let mut buffer = [0; BUFFER];
    let length = client.try_read(&mut buffer)?;
    Ok((length > 0).then(|| frames.decode(buffer.get(..length).unwrap_or_default())))
}

/// Sends the client what the mail server sends, and what the outbox contains.
async fn to_client(
    server: &Either<tcp::OwnedReadHalf, unix::OwnedReadHalf>,
    mut client: unix::OwnedWriteHalf,
    outbox: &Outbox,
) -> End {
    loop {
        let (pong, end) = outbox.take();
        if let Some(payload) = pong
            && write(&mut client, &frames::pong(payload)).await.is_err()
        {
            return End::Gone;
        }
        if let Some(end) = end {
            return finish(client, end).await;
        }
        // The outbox goes first: a mail server that sees the client's side end ends its own at once, and the client
        // is told why the session ended, not that the server closed it.
        let readable = tokio::select! {
            biased;
            () = outbox.changed.notified() => continue,
            readable = readable(server) => readable,
        };
        let frame = match readable.and_then(|()| read_frame(server)) {
            Ok(Some(frame)) => frame,
            Ok(None) => return finish(client, End::Finished).await,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return finish(client, End::Failed).await,
        };
        outbox.active.store(true, Ordering::Relaxed);
        if write(&mut client, &frame).await.is_err() {
            return End::Gone;
        }
    }
}

/// Tells the client why the session ends.
async fn finish(mut client: unix::OwnedWriteHalf, end: End) -> End {
    if let Some(frame) = end.frame() {
        let _ = write(&mut client, &frame).await;
    }
    end
}

async fn readable(server: &Either<tcp::OwnedReadHalf, unix::OwnedReadHalf>) -> io::Result<()> {
    match server {
        Either::Left(stream) => stream.readable().await,
        Either::Right(stream) => stream.readable().await,
    }
}

/// What the mail server has sent, as a message; `None` at the end.
fn read_frame(server: &Either<tcp::OwnedReadHalf, unix::OwnedReadHalf>) -> io::Result<Option<Vec<u8>>> {
    let mut buffer = [0; BUFFER];
    let length = match server {
        Either::Left(stream) => stream.try_read(&mut buffer),
        Either::Right(stream) => stream.try_read(&mut buffer),
    }?;
    Ok((length > 0).then(|| frames::binary(buffer.get(..length).unwrap_or_default())))
}

/// Returns when nothing has passed in either direction for a long time.
async fn idle(outbox: &Outbox) -> End {
    loop {
        tokio::time::sleep(IDLE).await;
        if !outbox.active.swap(false, Ordering::Relaxed) {
            return End::Idle;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::net::Shutdown;

    use super::*;

    /// The mail server closes the connection as soon as the client's side ends.
    #[tokio::test]
    async fn the_client_is_told_why_its_session_ends() {
        for _ in 0..500 {
            let (mut client, front) = std::os::unix::net::UnixStream::pair().unwrap();
            let (server, mut backend) = std::os::unix::net::UnixStream::pair().unwrap();
            for stream in [&front, &server] {
                stream.set_nonblocking(true).unwrap();
            }
            let backend = std::thread::spawn(move || {
                let end = backend.read(&mut [0; 1]);
                backend.shutdown(Shutdown::Both).unwrap();
                end.unwrap()
            });
            // A ping in parts.
            client.write_all(&[0x09, 0x80, 0, 0, 0, 0]).unwrap();
            let (front, server) = (
                UnixStream::from_std(front).unwrap(),
                UnixStream::from_std(server).unwrap(),
            );
            let end = relay(front, Either::Right(server), &[], &CancellationToken::new()).await;
            assert_eq!(end, End::Violation);
            assert_eq!(backend.join().unwrap(), 0, "bytes for the mail server");
            let mut frames = Vec::new();
            client.read_to_end(&mut frames).unwrap();
            assert_eq!(Some(frames), End::Violation.frame());
        }
    }
}
