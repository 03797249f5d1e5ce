//! A line-oriented connection with a timeout on every operation.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::tls::Tls;

/// Maximum line length; it fits long FETCH and METADATA responses, and stops a runaway server.
const MAX_LINE: u64 = 1024 * 1024;
/// Default timeout of an operation.
const STEP: Duration = Duration::from_secs(30);

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub enum WireError {
    /// Cannot connect.
    #[error("connecting to {0}: {1}")]
    Connect(SocketAddr, io::Error),
    /// The server closed the connection before it sent the expected data.
    #[error("the server closed the connection")]
    Closed,
    /// The operation timed out.
    #[error("no answer within {0:?}")]
    Deadline(Duration),
    /// The TLS handshake failed.
    #[error("TLS with {0}: {1}")]
    Tls(String, io::Error),
    /// The server sent plain data after its STARTTLS response and before the handshake (as in CVE-2021-33515).
    #[error("the server sent {0} bytes between STARTTLS and the handshake")]
    Injected(usize),
    /// A line exceeds the maximum length.
    #[error("a line is longer than {MAX_LINE} bytes")]
    TooLong,
    /// Reading or writing failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

impl WireError {
    /// Whether the other side closed or reset the connection, as when its process is killed.
    pub fn is_disconnect(&self) -> bool {
        match self {
            Self::Closed => true,
            Self::Io(error) => matches!(
                error.kind(),
                io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe | io::ErrorKind::UnexpectedEof
            ),
            _ => false,
        }
    }
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Parameters that the TLS handshake negotiated.
#[derive(Debug, Clone)]
pub struct Secured {
    /// `TLSv1_3` or `TLSv1_2`.
    pub version: String,
    /// The protocol chosen by ALPN.
    pub alpn: Option<String>,
}

/// A connection to one port, plain or encrypted.
pub struct Wire {
    stream: BufReader<Box<dyn Stream>>,
    /// Part of a line that was read before a timeout; the next read continues it.
    partial: Vec<u8>,
    secured: Option<Secured>,
}

impl Wire {
    /// Connects without encryption.
    pub async fn connect(address: SocketAddr) -> Result<Self, WireError> {
        let stream = timeout(STEP, TcpStream::connect(address))
            .await
            .map_err(|_| WireError::Deadline(STEP))?
            .map_err(|error| WireError::Connect(address, error))?;
        // Each write is one command or message, so Nagle's algorithm only adds latency.
        stream.set_nodelay(true)?;
        Ok(Self {
            stream: BufReader::new(Box::new(stream)),
            partial: Vec::new(),
            secured: None,
        })
    }

    /// Uses a stream of another protocol.
    pub(super) fn over(stream: impl AsyncRead + AsyncWrite + Send + Unpin + 'static) -> Self {
        Self {
            stream: BufReader::new(Box::new(stream)),
            partial: Vec::new(),
            secured: None,
        }
    }

    /// Connects with implicit TLS (ports 465, 993, 443).
    pub async fn connect_tls(address: SocketAddr, tls: &Tls, name: &str) -> Result<Self, WireError> {
        Self::connect(address).await?.handshake(tls, name).await
    }

    /// Performs the TLS handshake, as after STARTTLS.
    pub async fn handshake(self, tls: &Tls, name: &str) -> Result<Self, WireError> {
        let left = self.stream.buffer().len();
        if left > 0 || !self.partial.is_empty() {
            return Err(WireError::Injected(left));
        }
        let failed = |error| WireError::Tls(name.to_owned(), error);
        let connect = tls.connect(self.stream.into_inner(), name);
        let stream = timeout(STEP, connect)
            .await
            .map_err(|_| WireError::Deadline(STEP))?
            .map_err(failed)?;
        let (_, session) = stream.get_ref();
        let secured = Secured {
            version: session
                .protocol_version()
                .map(|version| format!("{version:?}"))
                .unwrap_or_default(),
            alpn: session
                .alpn_protocol()
                .map(|name| String::from_utf8_lossy(name).into_owned()),
        };
        Ok(Self {
            stream: BufReader::new(Box::new(stream)),
            partial: self.partial,
            secured: Some(secured),
        })
    }

    /// Returns the underlying stream, for another protocol.
    pub(super) fn into_stream(self) -> impl AsyncRead + AsyncWrite + Send + Unpin {
        self.stream
    }

    /// Returns the TLS parameters; none on a plain connection.
    pub fn secured(&self) -> Option<&Secured> {
        self.secured.as_ref()
    }

    /// Reads one line, without its line ending.
    pub async fn read_line(&mut self) -> Result<Vec<u8>, WireError> {
        self.read_line_within(STEP).await
    }

    /// Reads one line, without its line ending; after a timeout, the next call continues the partial line.
    pub async fn read_line_within(&mut self, deadline: Duration) -> Result<Vec<u8>, WireError> {
        let room = MAX_LINE.saturating_sub(self.partial.len() as u64);
        let mut limited = (&mut self.stream).take(room);
        let read = timeout(deadline, limited.read_until(b'\n', &mut self.partial));
        read.await.map_err(|_| WireError::Deadline(deadline))??;
        let Some(line) = self.partial.strip_suffix(b"\n") else {
            return Err(if self.partial.len() as u64 >= MAX_LINE {
                WireError::TooLong
            } else {
                WireError::Closed
            });
        };
        let line = line.strip_suffix(b"\r").unwrap_or(line).to_vec();
        self.partial.clear();
        Ok(line)
    }

    /// Reads exactly this many bytes.
    pub async fn read_exact(&mut self, length: usize) -> Result<Vec<u8>, WireError> {
        let mut bytes = vec![0; length];
        match timeout(STEP, self.stream.read_exact(&mut bytes)).await {
            Err(_) => Err(WireError::Deadline(STEP)),
            Ok(Err(error)) if error.kind() == io::ErrorKind::UnexpectedEof => Err(WireError::Closed),
            Ok(Err(error)) => Err(error.into()),
            Ok(Ok(_)) => Ok(bytes),
        }
    }

    /// Reads until the server closes the connection, up to `limit` bytes.
    pub async fn read_to_end(&mut self, limit: u64) -> Result<Vec<u8>, WireError> {
        let mut bytes = Vec::new();
        let mut limited = (&mut self.stream).take(limit);
        match timeout(STEP, limited.read_to_end(&mut bytes)).await {
            Err(_) => Err(WireError::Deadline(STEP)),
            // Some servers close without close_notify although the response is complete.
            Ok(Err(error)) if error.kind() != io::ErrorKind::UnexpectedEof => Err(error.into()),
            Ok(_) => Ok(bytes),
        }
    }

    /// Sends these bytes immediately.
    pub async fn write(&mut self, bytes: &[u8]) -> Result<(), WireError> {
        let write = async {
            self.stream.write_all(bytes).await?;
            self.stream.flush().await
        };
        Ok(timeout(STEP, write)
            .await
            .map_err(|_| WireError::Deadline(STEP))??)
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn a_line_cut_by_the_deadline_is_continued() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wire = Wire::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server.write_all(b"* 1 EX").await.unwrap();
        let early = wire.read_line_within(Duration::from_millis(50)).await;
        assert!(matches!(early, Err(WireError::Deadline(_))));
        server.write_all(b"ISTS\r\n* OK").await.unwrap();
        assert_eq!(wire.read_line().await.unwrap(), b"* 1 EXISTS");
        drop(server);
        let error = wire.read_line().await.unwrap_err();
        assert!(error.is_disconnect(), "{error}");
    }

    #[tokio::test]
    async fn data_before_the_handshake_is_refused() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut wire = Wire::connect(listener.local_addr().unwrap()).await.unwrap();
        let (mut server, _) = listener.accept().await.unwrap();
        server
            .write_all(b"220 go ahead\r\n250 injected\r\n")
            .await
            .unwrap();
        wire.read_line().await.unwrap();
        let error = wire.handshake(&Tls::name_only(), "_a.test").await.err().unwrap();
        assert!(matches!(error, WireError::Injected(14)), "{error}");
    }
}
