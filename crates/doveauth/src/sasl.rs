//! Logins of clients of Postfix, with the mechanism PLAIN (RFC 4616) in the protocol that Dovecot's auth service speaks
//! with its clients, version 1 (`auth_protocol.rst` of Dovecot's documentation).
//!
//! Postfix reports every `FAIL` as a wrong password (535), even one that is marked as temporary. A login that fails
//! temporarily therefore ends the connection: Postfix responds with 454, and connects again for the next login.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use daemon::CancellationToken;
use tokio::io::{
    AsyncBufRead, AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _,
    BufReader,
};
use tokio::time::timeout;
use zeroize::Zeroizing;

use crate::login::{Logins, Outcome, Password};

/// Name of the socket from systemd.
pub const SOCKET: &str = "sasl";

/// Maximum length of a line in bytes. Postfix accepts responses of up to 12 KiB (`smtpd_sasl_response_limit`).
const MAX_LINE: u64 = 16 * 1024;
/// Delay of the response to a wrong password, as in Dovecot (`auth_failure_delay`).
pub const FAILURE_DELAY: Duration = Duration::from_secs(2);
/// Maximum wait for Postfix to read a reply. Postfix itself waits 10 s for a reply.
const WRITE_TIMEOUT: Duration = Duration::from_secs(10);
/// The only supported major version of the protocol.
const MAJOR_VERSION: &[u8] = b"1";
/// Without a cookie, which only session logins of Dovecot use.
const HANDSHAKE: &str = "VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nSPID\t1\nCUID\t1\nDONE\n";
/// The same for all reasons, so that it does not reveal whether an account exists.
const MISMATCH: &str = "wrong address or password";

/// A line from Postfix.
#[derive(Debug, PartialEq, Eq)]
enum Request<'a> {
    /// Starts a login, with the response of the client if it came with the command (RFC 4954 section 4).
    Auth {
        id: u32,
        mechanism: &'a [u8],
        response: Option<&'a [u8]>,
    },
    /// The response of the client to an empty challenge.
    Continue { id: u32, response: &'a [u8] },
    /// A line that needs no reply.
    Other,
}

impl<'a> Request<'a> {
    fn parse(line: &'a [u8]) -> io::Result<Self> {
        let mut fields = line.split(|&byte| byte == b'\t');
        let command = fields.next().unwrap_or_default();
        let mut field = || fields.next().ok_or_else(|| malformed("a field is missing"));
        match command {
            b"VERSION" if field()? != MAJOR_VERSION => Err(malformed("unknown version")),
            b"AUTH" => {
                let (id, mechanism) = (number(field()?)?, field()?);
                let response = fields.find_map(|field| field.strip_prefix(b"resp="));
                Ok(Self::Auth {
                    id,
                    mechanism,
                    response,
                })
            }
            b"CONT" => Ok(Self::Continue {
                id: number(field()?)?,
                response: field()?,
            }),
            _ => Ok(Self::Other),
        }
    }
}

/// Responds to logins until Postfix closes the connection, a login fails temporarily, or the service stops.
///
/// An error means that the connection broke, or that the peer does not speak the protocol.
pub async fn serve<S>(stream: S, logins: &Logins, shutdown: &CancellationToken) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut stream = BufReader::new(stream);
    write(&mut stream, HANDSHAKE).await?;
    let mut challenged = None;
    loop {
        let line = tokio::select! {
            line = read_line(&mut stream) => line?,
            () = shutdown.cancelled() => return Ok(()),
        };
        let Some(line) = line else { return Ok(()) };
        let (id, response) = match Request::parse(&line)? {
            Request::Auth {
                id,
                mechanism: b"PLAIN",
                response: None,
            } => {
                challenged = Some(id);
                write(&mut stream, &format!("CONT\t{id}\t\n")).await?;
                continue;
            }
            Request::Auth {
                id,
                mechanism: b"PLAIN",
                response: Some(response),
            } => (id, response),
            Request::Continue { id, response } if challenged.take() == Some(id) => (id, response),
            Request::Auth { id, .. } | Request::Continue { id, .. } => {
                write(&mut stream, &format!("FAIL\t{id}\treason=not supported\n")).await?;
                continue;
            }
            Request::Other => continue,
        };
        let (user, outcome) = match plain(response) {
            Some((user, password)) => {
                let outcome = logins.login(&user, password).await;
                (user, outcome)
            }
            None => (String::new(), Outcome::Mismatch),
        };
        let reply = match outcome {
            // A user who can log in has an address, which contains no separators of the protocol.
            Outcome::Ok => format!("OK\t{id}\tuser={user}\n"),
            Outcome::Mismatch => {
                tokio::select! {
                    () = tokio::time::sleep(FAILURE_DELAY) => {}
                    () = shutdown.cancelled() => {}
                }
                format!("FAIL\t{id}\treason={MISMATCH}\n")
            }
            Outcome::Tempfail => return Ok(()),
        };
        write(&mut stream, &reply).await?;
    }
}

/// The address in lower case and the password; none if this is not a response of the mechanism, or a user wants to act
/// as another one.
fn plain(response: &[u8]) -> Option<(String, Password)> {
    let message = Zeroizing::new(STANDARD.decode(response).ok()?);
    let mut parts = message.splitn(3, |&byte| byte == 0);
    let (authorization, user, password) = (parts.next()?, parts.next()?, parts.next()?);
    if !authorization.is_empty() && !authorization.eq_ignore_ascii_case(user) {
        return None;
    }
    let user = std::str::from_utf8(user).ok()?.to_ascii_lowercase();
    Some((user, Arc::new(Zeroizing::new(password.to_vec()))))
}

/// The next line without its line feed; none at the end.
async fn read_line(stream: &mut (impl AsyncBufRead + Unpin)) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    let mut line = Zeroizing::new(Vec::new());
    stream.take(MAX_LINE).read_until(b'\n', &mut line).await?;
    match line.pop() {
        None => Ok(None),
        Some(b'\n') => Ok(Some(line)),
        Some(_) => Err(malformed("a line is too long or incomplete")),
    }
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), text: &str) -> io::Result<()> {
    timeout(WRITE_TIMEOUT, async {
        stream.write_all(text.as_bytes()).await?;
        stream.flush().await
    })
    .await?
}

fn number(field: &[u8]) -> io::Result<u32> {
    let number = std::str::from_utf8(field).ok().and_then(|text| text.parse().ok());
    number.ok_or_else(|| malformed("an ID is not a number"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("auth protocol: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_of_postfix() {
        let auth = |mechanism, response| Request::Auth {
            id: 7,
            mechanism,
            response,
        };
        let parse = |line: &'static [u8]| Request::parse(line).unwrap();
        assert_eq!(
            parse(b"AUTH\t7\tPLAIN\tservice=smtp\tnologin\tlip=::1\trip=::1\tsecured\tresp=AGEAYg=="),
            auth(b"PLAIN", Some(b"AGEAYg=="))
        );
        assert_eq!(
            parse(b"AUTH\t7\tPLAIN\tservice=smtp\tresp="),
            auth(b"PLAIN", Some(b""))
        );
        assert_eq!(parse(b"AUTH\t7\tLOGIN\tservice=smtp"), auth(b"LOGIN", None));
        assert_eq!(
            parse(b"CONT\t7\tAGEAYg=="),
            Request::Continue {
                id: 7,
                response: b"AGEAYg=="
            }
        );
        for line in [&b""[..], b"VERSION\t1\t9", b"CPID\t12", b"CANCEL\t7", b"\xff"] {
            assert_eq!(Request::parse(line).unwrap(), Request::Other);
        }
        for line in [
            &b"VERSION"[..],
            b"VERSION\t2\t0",
            b"AUTH",
            b"AUTH\t7",
            b"AUTH\tx\tPLAIN",
            b"AUTH\t4294967296\tPLAIN",
            b"CONT\t7",
        ] {
            Request::parse(line).unwrap_err();
        }
    }

    #[test]
    fn responses_of_the_mechanism() {
        let read = |message: &[u8]| {
            plain(STANDARD.encode(message).as_bytes()).map(|(user, password)| (user, password.to_vec()))
        };
        let expected = Some(("a@b.test".to_owned(), b"pass".to_vec()));
        assert_eq!(read(b"\0a@b.test\0pass"), expected);
        assert_eq!(read(b"\0A@B.test\0pass"), expected);
        assert_eq!(read(b"A@b.test\0a@b.test\0pass"), expected);
        // doveauth decides about these passwords.
        assert_eq!(read(b"\0a\0"), Some(("a".to_owned(), Vec::new())));
        assert_eq!(
            read(b"\0a\0\xff\0\t"),
            Some(("a".to_owned(), b"\xff\0\t".to_vec()))
        );
        for message in [
            &b"other\0a@b.test\0pass"[..],
            b"",
            b"\0",
            b"\0a@b.test",
            b"\0\xff\0pass",
        ] {
            assert_eq!(read(message), None);
        }
        assert_eq!(plain(b"AGEAYg"), None);
        assert_eq!(plain(b"*"), None);
    }
}
