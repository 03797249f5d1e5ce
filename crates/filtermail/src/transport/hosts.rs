//! Hosts that receive mail for a destination.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::lookup::Lookup;
use mail_auth::hickory_resolver::proto::rr::RData;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};
use tokio::time::timeout;

use super::networks::Networks;
use crate::dns::{self, ResolverError, is_label};
use crate::smtp::network;

/// Retries of a query without an answer.
const QUERY_RETRIES: usize = 1;
/// Maximum number of addresses of a host to try, of each family.
const MAX_ADDRESSES: usize = 4;
/// Longest wait for the addresses of one family while those of the other are known: some name servers do not answer
/// queries for IPv6.
const OTHER_FAMILY: Duration = Duration::from_millis(500);
/// Maximum number of MX records to read.
const MAX_RECORDS: usize = 20;

/// The part of a recipient after the `@`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Destination {
    /// A domain, in lower case.
    Domain(String),
    /// An address literal.
    Literal(IpAddr, String),
}

impl Destination {
    /// Returns the destination of a recipient; none if no HTTPS connection to its domain is possible.
    pub(super) fn of(recipient: &str) -> Option<Self> {
        let (_, domain) = recipient.rsplit_once('@')?;
        let domain = domain.to_ascii_lowercase();
        if let Some(literal) = domain.strip_prefix('[') {
            let literal = literal.strip_suffix(']')?;
            let address = match literal.strip_prefix("ipv6:") {
                Some(literal) => IpAddr::V6(literal.parse().ok()?),
                None => IpAddr::V4(literal.parse().ok()?),
            };
            return Some(Self::Literal(address, domain));
        }
        is_host(&domain).then_some(Self::Domain(domain))
    }

    /// Returns the destination in the form of a Postfix next hop.
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Domain(name) | Self::Literal(_, name) => name,
        }
    }

    /// What destinations that likely belong to one owner have in common.
    pub(super) fn owner(&self) -> String {
        match self {
            Self::Domain(name) => dns::group(name).to_owned(),
            Self::Literal(address, _) => network(*address),
        }
    }

    /// Whether no certificate for the destination can be verified: addresses, and domains that begin with `_`.
    pub(super) fn is_unverifiable(&self) -> bool {
        match self {
            Self::Domain(name) => name.starts_with('_'),
            Self::Literal(..) => true,
        }
    }
}

/// Whether a URL can contain this name, in lower case, unchanged, and no program parses it as an address.
fn is_host(name: &str) -> bool {
    let number = |label: &str| {
        let digits = label
            .strip_prefix("0x")
            .map(|hex| (hex, true))
            .unwrap_or((label, false));
        digits
            .0
            .bytes()
            .all(|b| b.is_ascii_digit() || (digits.1 && b.is_ascii_hexdigit()))
    };
    name.len() <= 253
        && name.contains('.')
        && name.split('.').all(is_label)
        && name.rsplit('.').next().is_some_and(|last| !number(last))
}

/// Looks up hosts and their addresses.
#[derive(Clone)]
pub(super) struct Hosts {
    resolver: Arc<TokioResolver>,
    networks: Arc<Networks>,
}

impl Hosts {
    /// Creates a lookup with the resolver at `address`.
    pub(super) fn new(address: SocketAddr, networks: Networks) -> Result<Self, ResolverError> {
        Ok(Self {
            resolver: Arc::new(dns::resolver(address, QUERY_RETRIES)?),
            networks: Arc::new(networks),
        })
    }

    /// Returns hosts that accept mail for the destination, in order of preference; none if Postfix has to decide.
    pub(super) async fn find(&self, destination: &Destination) -> Vec<String> {
        let domain = match destination {
            Destination::Domain(domain) => domain,
            Destination::Literal(address, _) if self.networks.allow(*address) => {
                return vec![match address {
                    IpAddr::V4(address) => address.to_string(),
                    IpAddr::V6(address) => format!("[{address}]"),
                }];
            }
            Destination::Literal(..) => return Vec::new(),
        };
        match self.resolver.mx_lookup(format!("{domain}.")).await {
            Ok(lookup) => {
                let records = lookup.answers().iter().filter_map(|record| match &record.data {
                    RData::MX(mx) => Some((mx.preference, mx.exchange.to_ascii())),
                    _ => None,
                });
                exchangers(records.take(MAX_RECORDS).collect())
            }
            // The domain itself (RFC 5321 section 5.1).
            Err(error) if error.is_no_records_found() && !error.is_nx_domain() => vec![domain.clone()],
            Err(_) => Vec::new(),
        }
    }

    /// Returns addresses of a host, IPv4 first.
    async fn addresses(&self, host: &str) -> Vec<IpAddr> {
        let name = format!("{host}.");
        let ipv4 = async {
            let found = self.resolver.ipv4_lookup(name.as_str()).await;
            self.allowed(found, |data| match data {
                RData::A(address) => Some(address.0.into()),
                _ => None,
            })
        };
        let ipv6 = async {
            if !self.networks.allow_ipv6() {
                return Vec::new();
            }
            let found = self.resolver.ipv6_lookup(name.as_str()).await;
            self.allowed(found, |data| match data {
                RData::AAAA(address) => Some(address.0.into()),
                _ => None,
            })
        };
        let (mut ipv4, mut ipv6) = (std::pin::pin!(ipv4), std::pin::pin!(ipv6));
        let (ipv4, ipv6) = tokio::select! {
            known = &mut ipv4 => {
                let others = unless_known(&known, ipv6).await;
                (known, others)
            }
            known = &mut ipv6 => (unless_known(&known, ipv4).await, known),
        };
        [ipv4, ipv6].concat()
    }

    /// Returns the addresses in a response to which delivery is allowed.
    fn allowed<E>(
        &self,
        found: Result<Lookup, E>,
        address: impl Fn(&RData) -> Option<IpAddr>,
    ) -> Vec<IpAddr> {
        let Ok(found) = found else {
            return Vec::new();
        };
        let answers = found.answers().iter();
        answers
            .filter_map(|record| address(&record.data))
            .filter(|address| self.networks.allow(*address))
            .take(MAX_ADDRESSES)
            .collect()
    }
}

/// Returns the hosts in order of preference. A null MX (RFC 7505) names no host.
fn exchangers(mut records: Vec<(u16, String)>) -> Vec<String> {
    records.sort();
    records
        .into_iter()
        .map(|(_, host)| host.trim_end_matches('.').to_ascii_lowercase())
        .filter(|host| is_host(host))
        .collect()
}

/// Awaits the addresses of one family, but not for long if those of the other are known.
async fn unless_known(known: &[IpAddr], others: impl Future<Output = Vec<IpAddr>>) -> Vec<IpAddr> {
    if known.is_empty() {
        return others.await;
    }
    timeout(OTHER_FAMILY, others).await.unwrap_or_default()
}

/// Addresses for connections. They are not looked up again, so nobody can change them after the check. The HTTPS client
/// races the two families (RFC 8305).
impl Resolve for Hosts {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = self.clone();
        Box::pin(async move {
            let addresses = hosts.addresses(name.as_str()).await;
            if addresses.is_empty() {
                return Err("no public address".into());
            }
            let addresses = addresses.into_iter().map(|address| SocketAddr::new(address, 0));
            Ok(Box::new(addresses) as Addrs)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn destinations() {
        let domain = |text: &str| match Destination::of(text) {
            Some(Destination::Domain(domain)) => Some(domain),
            _ => None,
        };
        assert_eq!(domain("a@Chat.Example.org").as_deref(), Some("chat.example.org"));
        assert_eq!(domain("\"a@b\"@_a.test").as_deref(), Some("_a.test"));
        let address = "192.0.2.1".parse().unwrap();
        assert_eq!(
            Destination::of("a@[192.0.2.1]"),
            Some(Destination::Literal(address, "[192.0.2.1]".to_owned()))
        );
        assert!(matches!(
            Destination::of("a@[IPv6:2001:db8::1]"),
            Some(Destination::Literal(IpAddr::V6(_), _))
        ));
        for bad in [
            "a",
            "a@",
            "a@localhost",
            "a@127.0.0.1",
            "a@0x7f.1",
            "a@x.0x7f",
            "a@x.1",
            "a@x.test:25",
            "a@x.test,[127.0.0.1]:10026",
            "a@x.test/y",
            "a@b\u{fc}cher.test",
            "a@x..test",
            "a@.test",
            "a@[x.test]",
            "a@[2001:db8::1]",
            "a@[ipv6:192.0.2.1]",
            "a@[192.0.2.1",
        ] {
            assert_eq!(Destination::of(bad), None, "{bad}");
        }
        for (recipient, owner) in [
            ("a@x.y.b.test", "b.test"),
            ("a@[192.0.2.1]", "192.0.2.1"),
            ("a@[IPv6:2001:db8::7:0:0:1]", "2001:db8:0:0::"),
        ] {
            assert_eq!(Destination::of(recipient).unwrap().owner(), owner);
        }
        assert!(Destination::of("a@_a.test").unwrap().is_unverifiable());
        assert!(!Destination::of("a@a.test").unwrap().is_unverifiable());
    }

    #[test]
    fn exchangers_in_order_without_addresses() {
        let records = [
            (20, "b.test."),
            (10, "A.test."),
            (5, "127.0.0.1."),
            (1, "."),
            (7, "0x7f.1."),
            (10, "_c.test."),
        ];
        let records = records.map(|(preference, host)| (preference, host.to_owned()));
        assert_eq!(exchangers(records.to_vec()), ["a.test", "_c.test", "b.test"]);
        assert!(exchangers(vec![(0, ".".to_owned())]).is_empty());
    }

    /// A resolver that answers queries for addresses with these, and others never.
    async fn resolver(ipv4: Option<&'static [u8]>, ipv6: Option<&'static [u8]>) -> SocketAddr {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let address = socket.local_addr().unwrap();
        tokio::spawn(async move {
            let mut query = [0; 1500];
            while let Ok((_, from)) = socket.recv_from(&mut query).await {
                // Header, and the question up to the end of its name, type and class.
                let name = query[12..].iter().position(|b| *b == 0).unwrap();
                let mut reply = query[..12 + name + 5].to_vec();
                let kind = query[12 + name + 2];
                let Some(data) = (if kind == 1 { ipv4 } else { ipv6 }) else {
                    continue;
                };
                reply[2] = 0x81;
                reply[3] = 0x80;
                reply[6..12].fill(0);
                for record in data.chunks(if kind == 1 { 4 } else { 16 }) {
                    reply[7] += 1;
                    reply.extend_from_slice(&[0xc0, 12, 0, kind, 0, 1, 0, 0, 0, 60, 0, record.len() as u8]);
                    reply.extend_from_slice(record);
                }
                socket.send_to(&reply, from).await.unwrap();
            }
        });
        address
    }

    /// 127.0.0.1 and `::1`.
    const IPV4: &[u8] = &[127, 0, 0, 1];
    const IPV6: &[u8] = &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];

    async fn hosts(ipv4: Option<&'static [u8]>, ipv6: Option<&'static [u8]>) -> Hosts {
        let loopback = ["127.0.0.0/8".to_owned(), "::1/128".to_owned()];
        let networks = Networks::new(&[], &loopback, true).unwrap();
        Hosts::new(resolver(ipv4, ipv6).await, networks).unwrap()
    }

    #[tokio::test]
    async fn addresses_of_both_families() {
        let found = async |ipv4, ipv6| {
            let addresses = hosts(ipv4, ipv6).await.addresses("a.test").await;
            addresses.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(found(Some(IPV4), Some(IPV6)).await, ["127.0.0.1", "::1"]);
        assert_eq!(found(Some(&[]), Some(IPV6)).await, ["::1"]);
        // Addresses of one family do not crowd out those of the other.
        const MANY: &[u8] = &[127; 4 * 2 * MAX_ADDRESSES];
        assert_eq!(found(Some(MANY), Some(IPV6)).await[MAX_ADDRESSES..], ["::1"]);
        // A name server that does not answer queries for one family delays only hosts without the other.
        let begin = std::time::Instant::now();
        assert_eq!(found(Some(IPV4), None).await, ["127.0.0.1"]);
        assert_eq!(found(None, Some(IPV6)).await, ["::1"]);
        assert!(begin.elapsed() < Duration::from_secs(3), "{:?}", begin.elapsed());
    }

    /// A port of one address that does not answer: its queue of connections is full, so the kernel drops packets that
    /// open further ones.
    struct Dead {
        _listener: tokio::net::TcpListener,
        _connections: Vec<tokio::net::TcpStream>,
    }

    async fn dead(address: SocketAddr) -> Dead {
        let socket = match address {
            SocketAddr::V4(_) => tokio::net::TcpSocket::new_v4(),
            SocketAddr::V6(_) => tokio::net::TcpSocket::new_v6(),
        }
        .unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(address).unwrap();
        let listener = socket.listen(1).unwrap();
        let mut connections = Vec::new();
        let wait = Duration::from_millis(300);
        while let Ok(connected) = timeout(wait, tokio::net::TcpStream::connect(address)).await {
            connections.push(connected.unwrap());
        }
        Dead {
            _listener: listener,
            _connections: connections,
        }
    }

    #[tokio::test]
    async fn families_are_raced() {
        for (alive, silent) in [("127.0.0.1", "[::1]"), ("[::1]", "127.0.0.1")] {
            let listener = tokio::net::TcpListener::bind(format!("{alive}:0")).await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let _dead = dead(format!("{silent}:{port}").parse().unwrap()).await;
            let hosts = hosts(Some(IPV4), Some(IPV6)).await;
            let https = super::super::https::Https::new(&hosts, port).unwrap();
            let destination = Destination::of("a@_a.test").unwrap();
            let fields = reqwest::header::HeaderMap::new();
            let posting = https.post(&destination, "_a.test", &fields, bytes::Bytes::new());
            let connected = async {
                let (mut stream, _) = listener.accept().await.unwrap();
                // The first byte of a TLS handshake.
                tokio::io::AsyncReadExt::read_u8(&mut stream).await.unwrap()
            };
            let begin = std::time::Instant::now();
            tokio::select! {
                answer = posting => panic!("{answer:?} while {silent} is dead"),
                first = connected => assert_eq!(first, 22),
            }
            assert!(begin.elapsed() < Duration::from_secs(2), "{:?}", begin.elapsed());
        }
    }
}
