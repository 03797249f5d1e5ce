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

/// The group of domains that likely belong to one owner: those with the same last two labels, or three if the last but
/// one is as short as the `co` of `co.uk`. A guess is enough, because it only decides which messages wait.
pub(crate) fn group(domain: &str) -> &str {
    let mut dots = domain.rmatch_indices('.').map(|(at, _)| at);
    let (Some(last), Some(second)) = (dots.next(), dots.next()) else {
        return domain;
    };
    let begin = if last - second <= 4 {
        dots.next().map_or(0, |at| at + 1)
    } else {
        second + 1
    };
    domain.get(begin..).unwrap_or(domain)
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
            ("a.b.abc.com", "b.abc.com"),
        ] {
            assert_eq!(group(domain), want, "{domain}");
        }
    }
}
