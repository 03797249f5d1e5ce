//! Postfix's lookups (socketmap_table(5)): of the next hops of a recipient, and, as a filter of delivery statuses, of
//! the result of each attempt.
//!
//! Postfix defers mail while it gets no response, so responses come only from memory, without further lookups.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use chatmail_core::Settings;
use daemon::CancellationToken;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::time::timeout;

use super::hosts::Destination;
use super::memory::Memory;
use super::metrics;
use crate::reply::Reply;

/// Idle timeout; Postfix closes idle connections after 10 s.
const IDLE_TIMEOUT: Duration = Duration::from_secs(60);
/// Maximum size of a request: the name of the table and an address, or the reply of another server.
const MAX_REQUEST: usize = 99_999;
/// Digits of the length of such a request.
const MAX_DIGITS: usize = 5;

/// Table of the next hops of each recipient (`transport_maps`).
const NEXT_HOPS: &str = "next-hops";
/// Table of the results of smtp(8), which it does not change (`smtp_delivery_status_filter`).
const RESULTS: &str = "results";

const NOT_FOUND: &str = "NOTFOUND ";
const NOT_A_REQUEST: &str = "PERM not a request";

/// Decides how Postfix delivers to a recipient.
pub(super) struct Lookup {
    own_domain: String,
    own_addresses: Vec<IpAddr>,
    hop: SocketAddr,
    /// Whether Postfix delivers over SMTP if the hop does not.
    smtp: bool,
}

impl Lookup {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            own_domain: settings.domain.to_ascii_lowercase(),
            own_addresses: settings.addresses.clone(),
            hop: settings.transport.listen,
            smtp: settings.federation.smtp.send,
        }
    }

    fn answer(&self, request: &[u8], memory: &Memory) -> String {
        let text = String::from_utf8_lossy(request);
        match text.split_once(' ') {
            Some((NEXT_HOPS, recipient)) => self.next_hops(recipient, memory),
            Some((RESULTS, result)) => {
                if let Some(host) = unreachable(result) {
                    memory.unreachable(host);
                }
                if let Some((transport, result)) = self.classify(result) {
                    metrics::count_result(transport, result);
                }
                NOT_FOUND.to_owned()
            }
            _ => NOT_A_REQUEST.to_owned(),
        }
    }

    /// Returns the response for a recipient: this service and then the destination itself, or "not found", after which
    /// Postfix delivers only over SMTP. Senders choose recipients, so only a valid domain or address becomes a next
    /// hop.
    fn next_hops(&self, recipient: &str, memory: &Memory) -> String {
        let Some(destination) = Destination::of(recipient) else {
            return NOT_FOUND.to_owned();
        };
        let name = destination.name();
        let own = match &destination {
            Destination::Domain(_) => false,
            Destination::Literal(address, _) => self.own_addresses.contains(address),
        };
        if own || name == self.own_domain || (self.smtp && memory.is_without(name)) {
            return NOT_FOUND.to_owned();
        }
        let hop = format!("OK smtp:[{}]:{}", self.hop.ip(), self.hop.port());
        if self.smtp { format!("{hop}, {name}") } else { hop }
    }

    /// Returns the transport and the result of an attempt for one recipient, from a result like
    /// `2.0.0 250 2.0.0 Ok: queued as X` or `5.7.1 host mx.example.org[192.0.2.1] said: 554 …`.
    fn classify(&self, result: &str) -> Option<(&'static str, &'static str)> {
        let (status, text) = result.split_once(' ')?;
        let hop = self.hop.ip();
        let over_https = text == Reply::OK_HTTPS.as_str() || text.starts_with(&format!("host {hop}[{hop}]"));
        let outcome = match status.as_bytes().first() {
            Some(b'2') => "sent",
            Some(b'4') => "deferred",
            Some(b'5') => "bounced",
            _ => return None,
        };
        Some((if over_https { "https" } else { "smtp" }, outcome))
    }

    /// Responds to requests until Postfix closes the connection or the service stops. If Postfix loses a connection, it
    /// repeats the request on another one.
    pub(super) async fn serve<S>(
        &self,
        mut stream: S,
        memory: &Memory,
        shutdown: &CancellationToken,
    ) -> io::Result<()>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let mut input = Vec::new();
        loop {
            let answer = match request(&input) {
                Request::Partial => {
                    let read = tokio::select! {
                        read = timeout(IDLE_TIMEOUT, stream.read_buf(&mut input)) => read,
                        () = shutdown.cancelled() => return Ok(()),
                    };
                    if read?? == 0 {
                        return Ok(());
                    }
                    continue;
                }
                Request::Malformed => return write(&mut stream, NOT_A_REQUEST).await,
                Request::Whole { payload, length } => {
                    let answer = self.answer(payload, memory);
                    input.drain(..length);
                    answer
                }
            };
            write(&mut stream, &answer).await?;
        }
    }
}

/// Returns the host to which smtp(8) could not connect, from a result like
/// `4.4.1 connect to mx.example.org[192.0.2.1]:25: Connection timed out`.
fn unreachable(result: &str) -> Option<&str> {
    let (host, _) = result.strip_prefix("4.4.1 connect to ")?.split_once('[')?;
    Some(host)
}

async fn write(stream: &mut (impl AsyncWrite + Unpin), answer: &str) -> io::Result<()> {
    let netstring = format!("{}:{answer},", answer.len());
    timeout(IDLE_TIMEOUT, stream.write_all(netstring.as_bytes())).await?
}

/// Received input.
#[derive(Debug, PartialEq)]
enum Request<'a> {
    /// The payload of a netstring, and the length of the whole netstring.
    Whole { payload: &'a [u8], length: usize },
    /// An incomplete netstring.
    Partial,
    /// Not a netstring, or one longer than Postfix sends.
    Malformed,
}

fn request(input: &[u8]) -> Request<'_> {
    let digits = input.iter().take_while(|byte| byte.is_ascii_digit()).count();
    if digits > MAX_DIGITS {
        return Request::Malformed;
    }
    match input.get(digits) {
        None => return Request::Partial,
        Some(b':') => {}
        Some(_) => return Request::Malformed,
    }
    let number = input
        .get(..digits)
        .and_then(|digits| std::str::from_utf8(digits).ok());
    let Some(size) = number
        .and_then(|digits| digits.parse::<usize>().ok())
        .filter(|size| *size <= MAX_REQUEST)
    else {
        return Request::Malformed;
    };
    let begin = digits + 1;
    let end = begin + size;
    match (input.get(begin..end), input.get(end)) {
        (Some(payload), Some(b',')) => Request::Whole {
            payload,
            length: end + 1,
        },
        (Some(_), Some(_)) => Request::Malformed,
        _ => Request::Partial,
    }
}

#[cfg(test)]
mod tests {
    use super::super::answer::Answer;
    use super::*;

    fn lookup() -> Lookup {
        Lookup {
            own_domain: "chat.example.org".to_owned(),
            own_addresses: vec!["192.0.2.1".parse().unwrap()],
            hop: "127.0.0.1:10083".parse().unwrap(),
            smtp: true,
        }
    }

    #[test]
    fn without_smtp_there_is_no_other_hop() {
        let memory = Memory::default();
        memory.note("b.test", &["mx.b.test".to_owned()], &Answer::NotOffered);
        let lookup = Lookup {
            smtp: false,
            ..lookup()
        };
        let answer = lookup.next_hops("a@b.test", &memory);
        assert_eq!(answer, "OK smtp:[127.0.0.1]:10083");
        assert_eq!(lookup.next_hops("a@chat.example.org", &memory), NOT_FOUND);
    }

    #[test]
    fn results_by_transport() {
        for (result, expected) in [
            ("2.0.0 250 OK (HTTPS)", Some(("https", "sent"))),
            ("2.0.0 250 2.0.0 Ok: queued as X", Some(("smtp", "sent"))),
            (
                "5.7.1 host 127.0.0.1[127.0.0.1] said: 554 5.7.1 no (in reply to end of DATA command)",
                Some(("https", "bounced")),
            ),
            (
                "5.7.1 host mx.b.test[192.0.2.1] said: 554 host 127.0.0.1[127.0.0.1]",
                Some(("smtp", "bounced")),
            ),
            (
                "4.4.1 connect to mx.b.test[192.0.2.1]:25: Connection timed out",
                Some(("smtp", "deferred")),
            ),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(lookup().classify(result), expected, "{result}");
        }
    }

    #[test]
    fn others_are_reached_over_https_first() {
        let memory = Memory::default();
        let answer = |recipient: &str| lookup().next_hops(recipient, &memory);
        for (recipient, next) in [
            ("a@B.test", "b.test"),
            ("a@[192.0.2.2]", "[192.0.2.2]"),
            ("a@[IPv6:2001:db8::1]", "[ipv6:2001:db8::1]"),
        ] {
            assert_eq!(answer(recipient), format!("OK smtp:[127.0.0.1]:10083, {next}"));
        }
        for recipient in [
            "a@chat.example.org",
            "a@Chat.Example.org",
            "a@[192.0.2.1]",
            "a@localhost",
            "a@x.test, [127.0.0.1]:10026",
            "a@x.test [127.0.0.1]:10026",
            "a@x.test:10026",
            "a@127.0.0.1",
            "*",
            "",
        ] {
            assert_eq!(answer(recipient), NOT_FOUND, "{recipient}");
        }
        memory.note("b.test", &["mx.b.test".to_owned()], &Answer::NotOffered);
        assert_eq!(answer("a@b.test"), NOT_FOUND);
        for (result, forgotten) in [
            ("2.0.0 250 2.0.0 Ok: queued as X", false),
            ("4.4.2 lost connection with mx.b.test[192.0.2.1]", false),
            (
                "4.4.1 connect to mx.b.test[192.0.2.1]:25: Connection timed out",
                true,
            ),
        ] {
            let told = lookup().answer(format!("results {result}").as_bytes(), &memory);
            assert_eq!(told, NOT_FOUND);
            assert_eq!(answer("a@b.test") != NOT_FOUND, forgotten, "{result}");
        }
    }

    #[test]
    fn requests_are_netstrings() {
        let whole = |payload, length| Request::Whole { payload, length };
        assert_eq!(request(b"3:x a,4:"), whole(b"x a", 6));
        assert_eq!(request(b"0:,"), whole(b"", 3));
        for partial in ["", "1", "12:", "3:x a", "99999:"] {
            assert_eq!(request(partial.as_bytes()), Request::Partial, "{partial}");
        }
        for malformed in ["x", ":,", "3:x ab", "000001:", "999999", "-1:"] {
            assert_eq!(request(malformed.as_bytes()), Request::Malformed, "{malformed}");
        }
    }

    #[tokio::test]
    async fn idle_connections_end_with_the_service() {
        let (_near, far) = tokio::io::duplex(64);
        let shutdown = CancellationToken::new();
        shutdown.cancel();
        lookup().serve(far, &Memory::default(), &shutdown).await.unwrap();
    }

    #[tokio::test]
    async fn several_requests_on_one_connection() {
        let (mut near, far) = tokio::io::duplex(64);
        let lookup = lookup();
        let memory = Memory::default();
        let shutdown = CancellationToken::new();
        let serving = lookup.serve(far, &memory, &shutdown);
        let asking = async move {
            for _ in 0..2 {
                near.write_all(b"11:next-hops ").await.unwrap();
                near.write_all(b"*,").await.unwrap();
                let mut answer = [0; 12];
                near.read_exact(&mut answer).await.unwrap();
                assert_eq!(&answer, b"9:NOTFOUND ,");
            }
            near.write_all(b"?").await.unwrap();
            let mut rest = String::new();
            near.read_to_string(&mut rest).await.unwrap();
            assert_eq!(rest, "18:PERM not a request,");
        };
        let (served, ()) = tokio::join!(serving, asking);
        served.unwrap();
    }
}
