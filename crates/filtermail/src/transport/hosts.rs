//! Hosts that receive mail for a destination.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::proto::rr::RData;
use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::networks::Networks;
use crate::dns::{self, ResolverError, is_label};

/// Retries of a query without an answer.
const QUERY_RETRIES: usize = 1;
/// Maximum number of addresses of a host to try.
const MAX_ADDRESSES: usize = 8;
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

/// Addresses for connections. They are not looked up again, so nobody can change them after the check.
impl Resolve for Hosts {
    fn resolve(&self, name: Name) -> Resolving {
        let hosts = self.clone();
        Box::pin(async move {
            let found = hosts.resolver.lookup_ip(format!("{}.", name.as_str())).await?;
            let addresses: Vec<SocketAddr> = found
                .iter()
                .filter(|address| hosts.networks.allow(*address))
                .take(MAX_ADDRESSES)
                .map(|address| SocketAddr::new(address, 0))
                .collect();
            if addresses.is_empty() {
                return Err("no public address".into());
            }
            Ok(Box::new(addresses.into_iter()) as Addrs)
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
}
