//! Addresses to which mail is delivered: public ones, and those that the operator allows.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv6Net};

/// Networks within global unicast that are for protocols and documentation, or that embed IPv4 addresses.
const RESERVED: [&str; 4] = ["2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20"];
/// Global unicast (RFC 4291 section 2.4).
const GLOBAL: &str = "2000::/3";

/// Networks in the settings.
#[derive(Debug, Clone)]
pub(super) struct Networks {
    reserved: Vec<IpNet>,
    allowed: Vec<IpNet>,
    global: Ipv6Net,
    ipv6: bool,
}

/// If a setting is not a network; then the service does not start.
#[derive(Debug, thiserror::Error)]
#[error("{0} is not a network")]
pub(super) struct NetworksError(String);

impl Networks {
    /// Blocks the `reserved` IPv4 networks except for `allowed` ones, and all IPv6 addresses unless `ipv6` is set.
    pub(super) fn new(reserved: &[String], allowed: &[String], ipv6: bool) -> Result<Self, NetworksError> {
        let parse = |text: &str| text.parse().map_err(|_| NetworksError(text.to_owned()));
        let all = |texts: &[String]| {
            texts
                .iter()
                .map(|text| parse(text))
                .collect::<Result<Vec<_>, _>>()
        };
        let mut reserved = all(reserved)?;
        for text in RESERVED {
            reserved.push(parse(text)?);
        }
        Ok(Self {
            reserved,
            allowed: all(allowed)?,
            global: GLOBAL.parse().map_err(|_| NetworksError(GLOBAL.to_owned()))?,
            ipv6,
        })
    }

    /// Whether delivery over IPv6 is allowed at all.
    pub(super) fn allow_ipv6(&self) -> bool {
        self.ipv6
    }

    /// Whether delivery to this address is allowed.
    pub(super) fn allow(&self, address: IpAddr) -> bool {
        // `::ffff:127.0.0.1` connects to 127.0.0.1.
        let address = address.to_canonical();
        let within = |networks: &[IpNet]| networks.iter().any(|network| network.contains(&address));
        let public = match address {
            IpAddr::V4(_) => true,
            IpAddr::V6(address) => self.ipv6 && self.global.contains(&address),
        };
        within(&self.allowed) || (public && !within(&self.reserved))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn public_addresses_only() {
        let list = |texts: &[&str]| texts.iter().map(|&text| text.to_owned()).collect::<Vec<_>>();
        let reserved = list(&["10.0.0.0/8", "127.0.0.0/8", "198.18.0.0/15"]);
        let networks = Networks::new(&reserved, &list(&["198.18.25.0/24"]), true).unwrap();
        let allows = |address: &str| networks.allow(address.parse().unwrap());
        for address in ["9.9.9.9", "198.18.25.7", "2a01::1", "2606:4700::1"] {
            assert!(allows(address), "{address}");
        }
        for address in [
            "10.1.2.3",
            "127.0.0.1",
            "198.18.26.1",
            "::1",
            "::",
            "::ffff:127.0.0.1",
            "64:ff9b::7f00:1",
            "fe80::1",
            "fd00::1",
            "2001:db8::1",
            "2001::1",
            "2002:7f00:1::",
            "3fff::1",
            "ff02::1",
        ] {
            assert!(!allows(address), "{address}");
        }
        let ipv4 = Networks::new(&reserved, &[], false).unwrap();
        assert!(!ipv4.allow("2a01::1".parse().unwrap()));
        assert!(Networks::new(&list(&["x"]), &[], true).is_err());
    }
}
