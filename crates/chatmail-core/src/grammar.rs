//! The grammar of addresses (RFC 5321 section 4.1.2).

use std::net::{Ipv4Addr, Ipv6Addr};

/// Maximum octets of a local part (RFC 5321 section 4.5.3.1.1).
pub const MAX_LOCALPART: usize = 64;

/// Maximum octets of a domain (RFC 5321 section 4.5.3.1.2).
pub const MAX_DOMAIN: usize = 255;

/// Whether `text` is a mail domain in lower case: dot-separated labels of letters, digits, `-` and `_`, or an address
/// literal such as `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 section 4.1.3).
pub fn is_domain(text: &str) -> bool {
    if let Some(literal) = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return match literal.strip_prefix("IPv6:") {
            Some(v6) => v6.parse::<Ipv6Addr>().is_ok(),
            None => literal.parse::<Ipv4Addr>().is_ok(),
        };
    }
    let label = |l: &str| {
        (1..=63).contains(&l.len())
            && !l.starts_with('-')
            && !l.ends_with('-')
            && l.bytes()
                .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'-' | b'_'))
    };
    text.len() <= MAX_DOMAIN && text.split('.').all(label)
}
