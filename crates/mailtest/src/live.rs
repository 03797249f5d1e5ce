//! Relays on the Internet: what scenarios need to know about them follows from their domains.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use crate::topology::{Certificate, Relay, Topology};

/// Files with the CA certificates of an operating system: Debian and NixOS, Fedora, Alpine and macOS.
const CA_FILES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];

/// Finds relays by DNS. The first one is relay `a` of scenarios, and the second one, or again the first, relay `b`.
pub async fn topology(
    domains: &[String],
    invitations: &[String],
    ca_file: Option<PathBuf>,
) -> anyhow::Result<Topology> {
    ensure!(
        invitations.len() <= domains.len(),
        "more invitations than relays; give one for each relay that asks for it, in the order of the domains"
    );
    let mut relays = Vec::new();
    let Some(first) = domains.first() else {
        bail!("no domain is given")
    };
    let second = usize::from(domains.len() > 1);
    for (name, domain, place) in [("a", first, 0), ("b", domains.get(1).unwrap_or(first), second)] {
        relays.push(Relay {
            name: name.to_owned(),
            domain: domain.clone(),
            ipv4: address(domain).await?,
            certificate: certificate(domain),
            // `-` stands for none.
            invitation: invitations.get(place).filter(|token| *token != "-").cloned(),
        });
    }
    let ca_file = match ca_file.or_else(|| std::env::var_os("SSL_CERT_FILE").map(PathBuf::from)) {
        Some(file) => file,
        None => CA_FILES
            .iter()
            .map(PathBuf::from)
            .find(|file| file.exists())
            .context("this computer has no file with CA certificates; use --ca-file")?,
    };
    Ok(Topology {
        relays,
        resolver: Ipv4Addr::UNSPECIFIED,
        host: Ipv4Addr::UNSPECIFIED,
        ca_file,
    })
}

/// Clients accept any certificate of a relay without a name, and of one whose name begins with `_`.
pub fn certificate(domain: &str) -> Certificate {
    if domain.starts_with('_') || domain.parse::<IpAddr>().is_ok() {
        Certificate::SelfSigned
    } else {
        Certificate::LabCa
    }
}

async fn address(domain: &str) -> anyhow::Result<Ipv4Addr> {
    let found = tokio::net::lookup_host((domain, 443)).await.with_context(|| {
        format!("cannot find {domain}; use the domain of a relay, such as chat.example.org")
    })?;
    let mut ipv4 = found.filter_map(|address| match address {
        SocketAddr::V4(address) => Some(*address.ip()),
        SocketAddr::V6(_) => None,
    });
    ipv4.next()
        .with_context(|| format!("{domain} has no IPv4 address, which these tests need"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn one_domain_is_both_relays() {
        let token = ["x".repeat(22)];
        let one = topology(&["127.0.0.1".to_owned()], &token, Some("/ca".into()))
            .await
            .unwrap();
        assert_eq!(one.relay("a").unwrap().ipv4, Ipv4Addr::LOCALHOST);
        assert_eq!(one.relay("b").unwrap().domain, "127.0.0.1");
        for name in ["a", "b"] {
            assert_eq!(one.relay(name).unwrap().invitation.as_ref(), token.first());
        }
        assert!(topology(&[], &[], None).await.is_err());
        assert!(
            topology(&["127.0.0.1".to_owned()], &["x".to_owned(), "y".to_owned()], None)
                .await
                .is_err()
        );
    }

    #[test]
    fn certificates_are_verified_unless_clients_do_not() {
        assert_eq!(certificate("chat.example.org"), Certificate::LabCa);
        assert_eq!(certificate("_a.test"), Certificate::SelfSigned);
        assert_eq!(certificate("192.0.2.1"), Certificate::SelfSigned);
    }
}
