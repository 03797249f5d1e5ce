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
    /// Addresses of all recipients.
    pub fn recipient_addresses(&self) -> Vec<String> {
        self.recipients.iter().map(|path| path.address.clone()).collect()
    }
}
