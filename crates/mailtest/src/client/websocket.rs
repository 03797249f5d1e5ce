//! IMAP and submission over WebSocket: through a WebSocket library like an ordinary client, and byte by byte for what
//! no library sends.

use anyhow::{Context as _, bail, ensure};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, DuplexStream};
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::Peer;
use super::imap::Imap;
use super::smtp::Smtp;
use super::wire::Wire;

/// Bytes on the way between the client and its WebSocket. A message of a client is as long as what it writes at once.
const BUFFER: usize = 1 << 20;
/// Maximum number of lines in the head of a response.
const MAX_LINES: usize = 50;
/// Key of a request, from RFC 6455.
const KEY: &str = "dGhlIHNhbXBsZSBub25jZQ==";

/// Mask of frames that are written byte by byte.
const MASK: [u8; 4] = [0x12, 0x34, 0x56, 0x78];

/// Opens a WebSocket at this path.
pub async fn open(
    peer: &Peer,
    path: &str,
) -> anyhow::Result<WebSocketStream<impl AsyncRead + AsyncWrite + Send + Unpin + use<>>> {
    let wire = Wire::connect_tls(peer.port(443), &peer.tls, &peer.domain).await?;
    let url = format!("wss://{}{path}", peer.domain);
    let (socket, _) = tokio_tungstenite::client_async(url, wire.into_stream())
        .await
        .context("opening a WebSocket")?;
    Ok(socket)
}

/// Opens a session; the payloads of the messages are a stream of bytes.
async fn session(peer: &Peer, path: &str) -> anyhow::Result<Wire> {
    let socket = open(peer, path).await?;
    let (near, far) = tokio::io::duplex(BUFFER);
    tokio::spawn(pass(socket, far));
    Ok(Wire::over(near))
}

/// Passes bytes on until either side ends.
async fn pass(
    mut socket: WebSocketStream<impl AsyncRead + AsyncWrite + Send + Unpin>,
    mut client: DuplexStream,
) -> anyhow::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        tokio::select! {
            length = client.read(&mut buffer) => match length? {
                0 => return Ok(socket.close(None).await?),
                length => {
                    let bytes = buffer.get(..length).unwrap_or_default().to_vec();
                    socket.send(Message::binary(bytes)).await?;
                }
            },
            message = socket.next() => match message {
                Some(Ok(Message::Binary(bytes))) => client.write_all(&bytes).await?,
                Some(Ok(Message::Close(_)) | Err(_)) | None => return Ok(()),
                Some(Ok(Message::Text(_))) => bail!("the relay sent text"),
                Some(Ok(_)) => {}
            },
        }
    }
}

/// Connects to IMAP, ready for LOGIN.
pub async fn imap(peer: &Peer) -> anyhow::Result<Imap> {
    Imap::greeted(session(peer, "/imap").await?).await
}

/// Connects to submission, ready for EHLO.
pub async fn smtp(peer: &Peer) -> anyhow::Result<Smtp> {
    Smtp::greeted(session(peer, "/smtp").await?).await
}

/// Sends a request for a WebSocket with more header fields; returns the connection and the head of the response.
pub async fn request(peer: &Peer, path: &str, fields: &str) -> anyhow::Result<(Wire, Vec<String>)> {
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: {}\r\nconnection: Upgrade\r\nupgrade: websocket\r\n\
         sec-websocket-version: 13\r\nsec-websocket-key: {KEY}\r\n{fields}\r\n",
        peer.domain
    );
    let mut wire = Wire::connect_tls(peer.port(443), &peer.tls, &peer.domain).await?;
    wire.write(head.as_bytes()).await?;
    let lines = response(&mut wire).await?;
    Ok((wire, lines))
}

/// Reads the head of a response.
pub async fn response(wire: &mut Wire) -> anyhow::Result<Vec<String>> {
    let mut lines = Vec::new();
    while lines.len() < MAX_LINES {
        let line = wire.read_line().await.context("waiting for the response")?;
        if line.is_empty() {
            return Ok(lines);
        }
        lines.push(String::from_utf8(line)?);
    }
    bail!("the head of the response is too long: {lines:?}")
}

/// Returns the status of a response.
pub fn status(lines: &[String]) -> Option<u16> {
    lines.first()?.split(' ').nth(1)?.parse().ok()
}

/// Returns the header of a masked frame with this first byte.
pub fn header(first: u8, length: u64) -> Vec<u8> {
    let mut bytes = vec![first];
    match length {
        0..=125 => bytes.push(0x80 | length as u8),
        126..=0xFFFF => {
            bytes.push(0x80 | 126);
            bytes.extend((length as u16).to_be_bytes());
        }
        _ => {
            bytes.push(0x80 | 127);
            bytes.extend(length.to_be_bytes());
        }
    }
    bytes.extend(MASK);
    bytes
}

/// Returns a masked frame with this first byte.
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = header(first, payload.len() as u64);
    bytes.extend(
        payload
            .iter()
            .zip(MASK.iter().cycle())
            .map(|(byte, mask)| byte ^ mask),
    );
    bytes
}

/// Reads a frame of the server; returns its first byte and its payload.
pub async fn read_frame(wire: &mut Wire) -> anyhow::Result<(u8, Vec<u8>)> {
    let head = wire.read_exact(2).await?;
    let [first, length] = head[..] else {
        bail!("no header of a frame")
    };
    ensure!(length <= 126, "the relay masks frames, or sends long ones");
    let length = match length {
        126 => {
            let length = wire.read_exact(2).await?;
            length.iter().fold(0, |sum, byte| sum << 8 | usize::from(*byte))
        }
        short => usize::from(short),
    };
    Ok((first, wire.read_exact(length).await?))
}

/// Reads until the close frame; returns its code.
pub async fn close_code(wire: &mut Wire) -> anyhow::Result<u16> {
    loop {
        if let (0x88, payload) = read_frame(wire).await? {
            return Ok(payload
                .iter()
                .take(2)
                .fold(0, |sum, byte| sum << 8 | u16::from(*byte)));
        }
    }
}
