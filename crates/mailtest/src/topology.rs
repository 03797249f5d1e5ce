//! Where the relays of a lab are: all that a client, a scenario or a foreign test suite needs to know of them.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

/// How a relay of the lab proves its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Certificate {
    /// Made by the relay itself; clients accept it for names that begin with `_`.
    SelfSigned,
    /// Signed by the lab's own CA.
    LabCa,
    /// Temporary until a scenario starts an ACME server.
    Acme,
}

/// One relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Relay {
    /// Name of the machine, as `cargo lab shell` takes it.
    pub name: String,
    /// Mail domain and host name; of a relay without a name, its address.
    pub domain: String,
    /// Address that all of the relay's standard ports are reached at.
    pub ipv4: Ipv4Addr,
    /// What clients must accept.
    pub certificate: Certificate,
}

impl Relay {
    /// Whether it has a domain name, and a zone in the DNS.
    pub fn is_named(&self) -> bool {
        self.domain.parse::<IpAddr>().is_err()
    }

    /// What stands behind the `@` of its addresses (RFC 5321 section 4.1.3).
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
    /// The relays, in the order of their names.
    pub relays: Vec<Relay>,
    /// Resolver that answers for every domain of the lab and with NXDOMAIN for all others.
    pub resolver: Ipv4Addr,
    /// Address of the host that scenarios run on, as the relays see it; mail from outside comes from here.
    pub host: Ipv4Addr,
    /// Certificate of the lab's CA, PEM.
    pub ca_file: PathBuf,
}

impl Topology {
    /// The relay with this machine name.
    pub fn relay(&self, name: &str) -> Option<&Relay> {
        self.relays.iter().find(|relay| relay.name == name)
    }
}
