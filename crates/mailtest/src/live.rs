//! Relays on the Internet: what scenarios need to know about them follows from their domains.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::{Context as _, bail, ensure};

use crate::client::Peer;
use crate::client::imap::Status;
use crate::topology::{Certificate, Login, Relay, Topology};

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
    accounts: Vec<Login>,
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
            ipv6: None,
            certificate: certificate(domain),
            // `-` stands for none.
            invitation: invitations.get(place).filter(|token| *token != "-").cloned(),
            accounts: Vec::new(),
        });
    }
    for login in accounts {
        let mut known = false;
        for relay in relays.iter_mut().filter(|relay| is_of(&login.address, relay)) {
            known = true;
            relay.accounts.push(login.clone());
        }
        ensure!(
            known,
            "the account {} is not on {}; give the domain of its relay too",
            login.address,
            domains.join(" or ")
        );
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

fn is_of(address: &str, relay: &Relay) -> bool {
    address
        .rsplit_once('@')
        .is_some_and(|(_, domain)| domain.eq_ignore_ascii_case(&relay.mail_domain()))
}

/// Logs in with every given account, so that a wrong password is one error and not many failed tests.
pub async fn check_accounts(topology: &Topology) -> anyhow::Result<()> {
    for relay in &topology.relays {
        let peer = Peer::of(topology, &relay.name)?;
        for login in &relay.accounts {
            let mut imap = peer
                .imap()
                .await
                .with_context(|| format!("cannot connect to {}", relay.domain))?;
            let answer = imap.login(&login.address, &login.password).await?;
            ensure!(
                answer.status == Status::Ok,
                "{} refuses the login of {}: {} Check the address and the password; on a closed relay, the operator creates accounts with `chatmail account create`",
                relay.domain,
                login.address,
                answer.text
            );
        }
    }
    Ok(())
}

/// Passwords for these accounts: the lines of a file, `-` for standard input.
pub fn logins(addresses: &[String], passwords: &str) -> anyhow::Result<Vec<Login>> {
    let lines: Vec<&str> = passwords.lines().collect();
    ensure!(
        lines.len() == addresses.len() && lines.iter().all(|line| !line.is_empty()),
        "there are {} account(s) but {} password(s); give one password per line, in the order of the accounts",
        addresses.len(),
        lines.iter().filter(|line| !line.is_empty()).count()
    );
    let logins = addresses.iter().zip(lines).map(|(address, password)| Login {
        address: address.clone(),
        password: password.to_owned(),
    });
    Ok(logins.collect())
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
        let one = topology(&["127.0.0.1".to_owned()], &token, Some("/ca".into()), Vec::new())
            .await
            .unwrap();
        assert_eq!(one.relay("a").unwrap().ipv4, Ipv4Addr::LOCALHOST);
        assert_eq!(one.relay("b").unwrap().domain, "127.0.0.1");
        for name in ["a", "b"] {
            assert_eq!(one.relay(name).unwrap().invitation.as_ref(), token.first());
        }
        assert!(topology(&[], &[], None, Vec::new()).await.is_err());
        assert!(
            topology(
                &["127.0.0.1".to_owned()],
                &["x".to_owned(), "y".to_owned()],
                None,
                Vec::new()
            )
            .await
            .is_err()
        );
    }

    #[tokio::test]
    async fn accounts_belong_to_the_relay_of_their_domain() {
        let addresses = ["one@[127.0.0.1]".to_owned(), "two@[127.0.0.1]".to_owned()];
        let given = logins(&addresses, "first\nsecond pass\n").unwrap();
        let domain = ["127.0.0.1".to_owned()];
        let found = topology(&domain, &[], Some("/ca".into()), given.clone())
            .await
            .unwrap();
        for name in ["a", "b"] {
            assert_eq!(found.relay(name).unwrap().accounts, given);
        }
        let text = serde_json::to_string(&found).unwrap() + &format!("{found:?}");
        assert!(!text.contains("second pass"), "{text}");

        let elsewhere = logins(&["one@example.org".to_owned()], "x").unwrap();
        let error = topology(&domain, &[], None, elsewhere)
            .await
            .unwrap_err()
            .to_string();
        assert!(error.contains("one@example.org is not on 127.0.0.1"), "{error}");
        for passwords in ["", "one\n", "one\n\n", "one\ntwo\nthree\n"] {
            let error = logins(&addresses, passwords).unwrap_err().to_string();
            assert!(error.contains("one password per line"), "{error}");
        }
    }

    #[test]
    fn certificates_are_verified_unless_clients_do_not() {
        assert_eq!(certificate("chat.example.org"), Certificate::LabCa);
        assert_eq!(certificate("_a.test"), Certificate::SelfSigned);
        assert_eq!(certificate("192.0.2.1"), Certificate::SelfSigned);
    }
}
