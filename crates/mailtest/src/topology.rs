//! The relays of a lab, as far as clients, scenarios and external test suites need to know them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// Issuer of a relay's TLS certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// Self-signed by the relay; clients accept it for names that begin with `_`.
    SelfSigned,
    /// Signed by a CA in the topology's `ca_file`.
    LabCa,
    /// Temporary until a scenario starts an ACME server.
    Acme,
}

/// One relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Machine name, as in `cargo lab shell NAME`.
    pub name: String,
    /// Mail domain and host name; the IP address if the relay has no domain.
    pub domain: String,
    /// Address on which the relay listens on all its standard ports.
    pub ipv4: Ipv4Addr,
    /// The same, if the relay has only this address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ipv6: Option<Ipv6Addr>,
    /// The kind of certificate that clients must accept.
    pub certificate: Certificate,
    /// Token of an invitation with which clients sign up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub invitation: Option<String>,
    /// Accounts that exist already, for a relay on which clients cannot sign up. Never in a file.
    #[serde(skip)]
    pub accounts: Vec<Login>,
}

/// An account that exists already.
#[derive(Clone, PartialEq, Eq)]
pub struct Login {
    /// Address.
    pub address: String,
    /// Password.
    pub password: String,
}

impl std::fmt::Debug for Login {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Login")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Relay {
    /// Address to which clients connect.
    pub fn address(&self) -> IpAddr {
        self.ipv6.map_or(self.ipv4.into(), IpAddr::V6)
    }

    /// Whether the relay has a domain name and a DNS zone.
    pub fn is_named(&self) -> bool {
        self.domain.parse::<IpAddr>().is_err()
    }

    /// The part of its mail addresses after the `@` (RFC 5321 section 4.1.3).
    pub fn mail_domain(&self) -> String {
        if self.is_named() {
            self.domain.clone()
        } else {
            format!("[{}]", self.domain)
        }
    }
}

/// A running lab, as `cargo lab up --json` prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Topology {
    /// The relays, sorted by name.
    pub relays: Vec<Relay>,
    /// Resolver that answers for every domain of the lab and with NXDOMAIN for all others. The unspecified address stands
    /// for the name servers of this computer.
    pub resolver: Ipv4Addr,
    /// Address of the host that runs the scenarios, as the relays see it; outside mail comes from it.
    pub host: Ipv4Addr,
    /// Certificates of CAs in PEM format, such as that of the lab.
    pub ca_file: PathBuf,
}

impl Topology {
    /// The relay with this machine name.
    pub fn relay(&self, name: &str) -> Option<&Relay> {
        self.relays.iter().find(|relay| relay.name == name)
    }
}
