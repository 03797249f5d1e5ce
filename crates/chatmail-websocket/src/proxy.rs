//! The PROXY protocol, version 2: tells a mail server the address of the client.

use std::net::IpAddr;

const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, a connection on behalf of a client.
const PROXY: u8 = 0x21;
const TCP_OVER_IPV4: u8 = 0x11;
const TCP_OVER_IPV6: u8 = 0x21;
/// `PP2_TYPE_SSL` with `PP2_CLIENT_SSL` and without a client certificate. Dovecot accepts passwords only from clients
/// that use TLS.
const TLS: [u8; 8] = [0x20, 0, 5, 0x01, 0, 0, 0, 0];
/// Placeholder for both ports.
const PORT: [u8; 2] = 443u16.to_be_bytes();

/// The header for a client with this address that is connected to nginx with TLS. The destination and the ports are
/// placeholders.
pub(crate) fn header(origin: IpAddr) -> Vec<u8> {
    let (family, addresses) = match origin.to_canonical() {
        IpAddr::V4(address) => (TCP_OVER_IPV4, [address.octets(), [127, 0, 0, 1]].concat()),
        IpAddr::V6(address) => {
            let loopback = std::net::Ipv6Addr::LOCALHOST.octets();
            (TCP_OVER_IPV6, [address.octets(), loopback].concat())
        }
    };
    let rest = [&addresses[..], &PORT, &PORT, &TLS].concat();
    let length = u16::try_from(rest.len()).unwrap_or_default().to_be_bytes();
    [&SIGNATURE[..], &[PROXY, family], &length, &rest].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_of_both_families() {
        let v4 = header("192.0.2.7".parse().unwrap());
        assert_eq!(v4[12..16], [0x21, 0x11, 0, 20]);
        assert_eq!(v4[16..20], [192, 0, 2, 7]);
        assert_eq!(v4.len(), 16 + 20);
        assert_eq!(header("::ffff:192.0.2.7".parse().unwrap()), v4);
        let v6 = header("2001:db8::7".parse().unwrap());
        assert_eq!(v6[12..16], [0x21, 0x21, 0, 44]);
        assert_eq!(v6.len(), 16 + 44);
    }
}
