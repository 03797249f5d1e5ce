//! Names and the resolver of the DNS.

use std::net::SocketAddr;
use std::time::Duration;

use mail_auth::hickory_resolver::TokioResolver;
use mail_auth::hickory_resolver::config::{LookupIpStrategy, NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::hickory_resolver::net::runtime::TokioRuntimeProvider;

/// Longest wait for one answer from the resolver.
const QUERY_TIMEOUT: Duration = Duration::from_secs(4);

/// The resolver could not be set up; the service does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the resolver {address}: {reason}")]
pub struct ResolverError {
    /// Address of the resolver.
    address: SocketAddr,
    /// Error of the library.
    reason: String,
}

/// Creates a client of the resolver at `address`, which repeats a query without an answer this often. It caches nothing:
/// the resolver on the host does.
pub(crate) fn resolver(address: SocketAddr, retries: usize) -> Result<TokioResolver, ResolverError> {
    let mut server = NameServerConfig::udp_and_tcp(address.ip());
    for connection in &mut server.connections {
        connection.port = address.port();
    }
    let mut options = ResolverOpts::default();
    options.timeout = QUERY_TIMEOUT;
    options.attempts = retries;
    options.ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
    options.cache_size = 0;
    let config = ResolverConfig::from_name_servers(vec![server]);
    TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
        .with_options(options)
        .build()
        .map_err(|error| ResolverError {
            address,
            reason: error.to_string(),
        })
}

/// Whether a host name can contain this label (RFC 1035 section 2.3.1), or one with `_`, as in the names of DKIM keys.
pub(crate) fn is_label(label: &str) -> bool {
    (1..=63).contains(&label.len())
        && label
            .bytes()
            .all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_'))
}

/// The part of a domain that its owner has registered, below a suffix of the Public Suffix List; all names below it are
/// in one hand. The list is as old as this build, and only decides which messages wait.
pub(crate) fn group(domain: &str) -> &str {
    psl::domain_str(domain).unwrap_or(domain)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_in_one_hand() {
        for (domain, want) in [
            ("test", "test"),
            ("a.test", "a.test"),
            ("x.y.attacker.test", "attacker.test"),
            ("x.good.co.uk", "good.co.uk"),
            ("good.co.uk", "good.co.uk"),
            ("co.uk", "co.uk"),
            ("a.b.abc.com", "abc.com"),
            ("x.user.duckdns.org", "user.duckdns.org"),
            ("_dmarc.a.test", "a.test"),
            ("", ""),
        ] {
            assert_eq!(group(domain), want, "{domain}");
        }
    }
}
