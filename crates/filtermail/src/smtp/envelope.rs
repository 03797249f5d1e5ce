//! The envelope of a message.

use std::net::IpAddr;

/// Sender or recipient with its parameters (RFC 5321 section 4.1.2).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Path {
    /// The address without angle brackets; empty for `<>`.
    pub address: String,
    /// Parameters as received, separated by spaces.
    pub parameters: String,
}

impl Path {
    /// An address without parameters.
    pub fn plain(address: String) -> Self {
        Self {
            address,
            parameters: String::new(),
        }
    }
}

/// The envelope of a message.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Envelope {
    /// Where bounces go.
    pub sender: Path,
    /// Who gets the message.
    pub recipients: Vec<Path>,
    /// Address that sent the message to Postfix, if Postfix knows it (`XFORWARD`).
    pub origin: Option<IpAddr>,
}

impl Envelope {
    /// The sender, in lower case; none for the null sender, which is nobody in particular.
    pub fn author(&self) -> Option<String> {
        Some(self.sender.address.to_ascii_lowercase()).filter(|sender| !sender.is_empty())
    }

    /// The network that has sent the message.
    pub fn network(&self) -> Option<String> {
        self.origin.map(network)
    }

    /// Addresses of all recipients.
    pub fn recipient_addresses(&self) -> Vec<String> {
        self.recipients.iter().map(|path| path.address.clone()).collect()
    }
}

/// What all addresses of one host have in common: an IPv4 address, or the smallest IPv6 network that a host has (`/64`).
pub fn network(address: IpAddr) -> String {
    match address.to_canonical() {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => {
            let [a, b, c, d, ..] = address.segments();
            format!("{a:x}:{b:x}:{c:x}:{d:x}::")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn networks_of_clients() {
        let network = |origin: &str| {
            let envelope = Envelope {
                origin: origin.parse().ok(),
                ..Envelope::default()
            };
            envelope.network()
        };
        for (origin, expected) in [
            ("192.0.2.1", Some("192.0.2.1")),
            ("::ffff:192.0.2.1", Some("192.0.2.1")),
            ("2001:db8:0:7:1::1", Some("2001:db8:0:7::")),
            ("2001:db8:0:7:2::", Some("2001:db8:0:7::")),
            ("", None),
        ] {
            assert_eq!(network(origin).as_deref(), expected, "{origin}");
        }
    }
}
