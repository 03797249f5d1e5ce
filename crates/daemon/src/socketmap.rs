//! Lookups of Postfix's socketmap protocol (socketmap_table(5)), served and made.

use std::io;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

use crate::CancellationToken;

/// Idle timeout; Postfix closes idle connections after 10 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of a request or response: the name of the table and an address, or the reply of another server.
const MAX_SIZE: usize = 99_999;
/// Digits of the length of such a request.
const MAX_DIGITS: usize = 5;

/// The response for a key without a value.
pub const NOT_FOUND: &str = "NOTFOUND ";
/// The response for an unknown table.
pub const NO_SUCH_TABLE: &str = "PERM no such table";
const NOT_A_REQUEST: &str = "PERM not a request";

/// Responds to requests, with what `answer` says about a table and a key, until the client closes the connection or the
/// service stops. If Postfix loses a connection, it repeats the request on another one.
pub async fn serve<S, F>(
    mut stream: S,
    shutdown: &CancellationToken,
    mut answer: impl FnMut(&str, &str) -> F,
) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    F: Future<Output = String>,
{
    let mut input = Vec::new();
    loop {
        let answer = match netstring(&input) {
            Netstring::Partial => {
                let read = tokio::select! {
                    read = timeout(IDLE_TIMEOUT, stream.read_buf(&mut input)) => read,
                    () = shutdown.cancelled() => return Ok(()),
                };
                if read?? == 0 {
                    return Ok(());
                }
                continue;
            }
            Netstring::Malformed => return write(&mut stream, NOT_A_REQUEST).await,
            Netstring::Whole { payload, length } => {
                let request = String::from_utf8_lossy(payload);
                let answer = match request.split_once(' ') {
                    Some((table, key)) => answer(table, key).await,
                    None => NOT_A_REQUEST.to_owned(),
                };
                input.drain(..length);
                answer
            }
        };
        write(&mut stream, &answer).await?;
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    let netstring = format!("{}:{text},", text.len());
    timeout(IDLE_TIMEOUT, stream.write_all(netstring.as_bytes())).await?
}

/// Makes lookups at a Unix socket.
#[derive(Debug)]
pub struct Client {
    socket: PathBuf,
    /// The connection of the last lookup.
    idle: Mutex<Option<UnixStream>>,
}

impl Client {
    /// Connects at the first lookup.
    pub fn new(socket: PathBuf) -> Self {
        Self {
            socket,
            idle: Mutex::default(),
        }
    }

    /// Looks up keys of a table one after the other and discards the responses. After an error on a connection that was
    /// idle, repeats all of them on a new one.
    pub async fn tell(&self, table: &str, keys: &[String]) -> io::Result<()> {
        let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(stream) = idle
            && self.tell_on(stream, table, keys).await.is_ok()
        {
            return Ok(());
        }
        let stream = UnixStream::connect(&self.socket).await?;
        self.tell_on(stream, table, keys).await
    }

    async fn tell_on(&self, mut stream: UnixStream, table: &str, keys: &[String]) -> io::Result<()> {
        for key in keys {
            write(&mut stream, &format!("{table} {key}")).await?;
            response(&mut stream).await?;
        }
        *self.idle.lock().unwrap_or_else(PoisonError::into_inner) = Some(stream);
        Ok(())
    }
}

async fn response(stream: &mut UnixStream) -> io::Result<()> {
    let mut input = Vec::new();
    loop {
        match netstring(&input) {
            Netstring::Whole { .. } => return Ok(()),
            Netstring::Malformed => return Err(io::ErrorKind::InvalidData.into()),
            Netstring::Partial => {
                if timeout(IDLE_TIMEOUT, stream.read_buf(&mut input)).await?? == 0 {
                    return Err(io::ErrorKind::UnexpectedEof.into());
                }
            }
        }
    }
}

/// Received input.
#[derive(Debug, PartialEq)]
enum Netstring<'a> {
    /// The payload of a netstring, and the length of the whole netstring.
    Whole { payload: &'a [u8], length: usize },
    /// An incomplete netstring.
    Partial,
    /// Not a netstring, or one longer than Postfix sends.
    Malformed,
}

fn netstring(input: &[u8]) -> Netstring<'_> {
    let digits = input.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > MAX_DIGITS {
        return Netstring::Malformed;
    }
    match input.get(digits) {
        None => return Netstring::Partial,
        Some(b':') => {}
        Some(_) => return Netstring::Malformed,
    }
    let number = input
        .get(..digits)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let Some(size) = number
        .and_then(|digits| digits.parse::<usize>().ok())
        .filter(|size| *size <= MAX_SIZE)
    else {
        return Netstring::Malformed;
    };
    let begin = digits + 1;
    let end = begin + size;
    match (input.get(begin..end), input.get(end)) {
        (Some(payload), Some(b',')) => Netstring::Whole {
            payload,
            length: end + 1,
        },
        (Some(_), Some(_)) => Netstring::Malformed,
        _ => Netstring::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn upper(table: String, key: String) -> String {
        format!("OK {table} {}", key.to_uppercase())
    }

    fn answer(table: &str, key: &str) -> impl Future<Output = String> + use<> {
        upper(table.to_owned(), key.to_owned())
    }

    #[test]
    fn requests_are_netstrings() {
        let whole = |payload, length| Netstring::Whole { payload, length };
        assert_eq!(netstring(b"3:x a,4:"), whole(b"x a", 6));
        assert_eq!(netstring(b"0:,"), whole(b"", 3));
        for partial in ["", "1", "12:", "3:x a", "99999:"] {
            assert_eq!(netstring(partial.as_bytes()), Netstring::Partial, "{partial}");
        }
        for malformed in ["x", ":,", "3:x ab", "000001:", "999999", "-1:"] {
            assert_eq!(
                netstring(malformed.as_bytes()),
                Netstring::Malformed,
                "{malformed}"
            );
        }
    }

    #[tokio::test]
    async fn idle_connections_end_with_the_service() {
        let (_near, far) = tokio::io::duplex(64);
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        serve(far, &shutdown, answer).await.unwrap();
    }

    #[tokio::test]
    async fn several_requests_on_one_connection() {
        let (mut near, far) = tokio::io::duplex(64);
        let shutdown = CancellationToken::new();
        let asking = async move {
            for _ in 0..2 {
                near.write_all(b"5:next ").await.unwrap();
                near.write_all(b",").await.unwrap();
                let mut answer = [0; 11];
                near.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"8:OK next ,");
            }
            near.write_all(b"1:x,?").await.unwrap();
            let mut rest = String::new();
            near.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "18:PERM not a request,18:PERM not a request,");
        };
        let (served, ()) = tokio::join!(serve(far, &shutdown, answer), asking);
        served.unwrap();
    }

    #[tokio::test]
    async fn a_client_survives_a_restart_of_its_server() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let client = Client::new(path.clone());
        let keys = ["a".to_owned(), "b".to_owned()];
        client.tell("table", &keys).await.unwrap_err();
        for _ in 0..2 {
            let listener = tokio::net::UnixListener::bind(&path).unwrap();
            let (told, mut asked) = tokio::sync::mpsc::unbounded_channel();
            let shutdown = CancellationToken::new();
            let serving = tokio::spawn({
                let shutdown = shutdown.clone();
                async move {
                    let (stream, _) = listener.accept().await.unwrap();
                    serve(stream, &shutdown, |table, key| {
                        told.send(format!("{table} {key}")).unwrap();
                        std::future::ready(NOT_FOUND.to_owned())
                    })
                    .await
                }
            });
            client.tell("table", &keys).await.unwrap();
            assert_eq!(asked.recv().await.unwrap(), "table a");
            assert_eq!(asked.recv().await.unwrap(), "table b");
            shutdown.cancel();
            serving.await.unwrap().unwrap();
            std::fs::remove_file(&path).unwrap();
        }
    }
}
