//! What filtermail-outgoing tells this service: whether a destination has just accepted mail, and promptly.
//!
//! Postfix tells results together with their destination only in its log, which filtermail-outgoing reads. The messages
//! are datagrams, `+b.test` or `-b.test`.

use std::time::Instant;

use daemon::CancellationToken;
use tokio::net::UnixDatagram;

use super::hosts::Destination;
use super::memory::Memory;

/// Maximum size of a message: a sign and a domain.
const MAX: usize = 512;

/// The message about a destination, which is a domain or an address literal.
pub(crate) fn message(destination: &str, accepts: bool) -> String {
    format!("{}{destination}", if accepts { '+' } else { '-' })
}

/// Parses a message.
fn parse(datagram: &[u8]) -> Option<(Destination, bool)> {
    let text = std::str::from_utf8(datagram).ok()?;
    let (name, accepts) = match text.strip_prefix('+') {
        Some(name) => (name, true),
        None => (text.strip_prefix('-')?, false),
    };
    Some((Destination::of(&format!("@{name}"))?, accepts))
}

/// Remembers what the messages say, until the service stops.
pub(super) async fn learn(socket: &UnixDatagram, memory: &Memory, shutdown: &CancellationToken) {
    let mut buffer = [0; MAX];
    while let Some(received) = shutdown.run_until_cancelled(socket.recv(&mut buffer)).await {
        match received {
            Ok(length) => {
                if let Some((destination, accepts)) = parse(buffer.get(..length).unwrap_or_default()) {
                    memory.answered(&destination, accepts, Instant::now());
                }
            }
            Err(error) => return tracing::warn!("cannot receive results of deliveries: {error}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn results_of_destinations() {
        for (name, expected) in [
            ("b.test", "b.test"),
            ("_B.test", "_b.test"),
            ("[192.0.2.1]", "[192.0.2.1]"),
            ("[IPv6:2001:db8::1]", "[ipv6:2001:db8::1]"),
        ] {
            for accepts in [true, false] {
                let (destination, said) = parse(message(name, accepts).as_bytes()).unwrap();
                assert_eq!((destination.name(), said), (expected, accepts));
            }
        }
        for bad in ["", "+", "-", "b.test", "+b", "+b.test, c.test", "+b.test\n"] {
            assert_eq!(parse(bad.as_bytes()), None, "{bad}");
        }
        assert_eq!(parse(b"+\xff.test"), None);
        assert_eq!(parse(&[b'+'; MAX]), None);
    }

    #[tokio::test]
    async fn destinations_that_accept_mail_are_known() {
        let (near, far) = UnixDatagram::pair().unwrap();
        let (memory, shutdown) = (Memory::default(), CancellationToken::new());
        let destination = Destination::of("@b.test").unwrap();
        let knows = || memory.is_prompt(&destination, Instant::now());
        let telling = async {
            for (text, known) in [("+b.test", true), ("nonsense", true), ("-B.test", false)] {
                far.send(text.as_bytes()).await.unwrap();
                while knows() != known {
                    tokio::task::yield_now().await;
                }
            }
            shutdown.cancel();
        };
        tokio::join!(learn(&near, &memory, &shutdown), telling);
    }
}
