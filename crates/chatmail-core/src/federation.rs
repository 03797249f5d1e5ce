//! With which domains a relay exchanges mail (`services.chatmail.federation.allow` and `block`).

use std::collections::HashSet;
use std::net::IpAddr;

use crate::grammar::MAX_DOMAIN;
use crate::settings::Settings;

/// Rules that name domains. An entry includes all subdomains.
#[derive(Debug, Clone, Default)]
pub struct Rules {
    /// The domain of the relay, for which no rule applies.
    own: String,
    /// The only domains that are allowed; none if all are.
    allow: Option<HashSet<String>>,
    block: HashSet<String>,
}

impl Rules {
    /// The rules of a relay.
    pub fn new(settings: &Settings) -> Self {
        let all = |domains: &[String]| domains.iter().map(|domain| normal_domain(domain)).collect();
        Self {
            own: normal_domain(&settings.domain),
            allow: settings.federation.allow.as_deref().map(all),
            block: all(&settings.federation.block),
        }
    }

    /// The domain in an address of a sender or recipient with which the relay exchanges no mail; none if the address is
    /// allowed. Addresses without a domain, such as the null sender, name nobody elsewhere.
    pub fn refused(&self, address: &str) -> Option<String> {
        let (before, domain) = address.rsplit_once('@')?;
        let domain = normal_domain(domain);
        if domain == self.own {
            // Postfix can take `user@elsewhere@own` for a route to another server.
            return self.refused(before);
        }
        let named = |list: &HashSet<String>| with_parents(&domain).any(|name| list.contains(name));
        let allowed = self.allow.as_ref().is_none_or(named) && !named(&self.block);
        (!allowed).then_some(domain)
    }
}

/// A domain and the domains that contain it; only itself if it is an address literal.
fn with_parents(domain: &str) -> impl Iterator<Item = &str> {
    std::iter::successors(Some(domain), |name| match name.split_once('.') {
        Some((_, parent)) if !name.starts_with('[') => Some(parent),
        _ => None,
    })
}

/// The one spelling of a domain or address literal: in lower case and ASCII (RFC 5891), without final dots.
pub fn normal_domain(domain: &str) -> String {
    if let Some(address) = literal(domain) {
        return format!("[{}]", address.to_canonical());
    }
    let lower = || domain.trim_end_matches('.').to_ascii_lowercase();
    if domain.is_ascii() || domain.len() > MAX_DOMAIN {
        return lower();
    }
    // Ideographic full stops become dots.
    idna::domain_to_ascii(domain).map_or_else(|_| lower(), |ascii| ascii.trim_end_matches('.').to_owned())
}

/// The address in an address literal (RFC 5321 section 4.1.3).
fn literal(domain: &str) -> Option<IpAddr> {
    let inside = domain
        .trim_end_matches('.')
        .strip_prefix('[')?
        .strip_suffix(']')?;
    match inside.split_at_checked(5) {
        Some((tag, address)) if tag.eq_ignore_ascii_case("IPv6:") => address.parse().ok().map(IpAddr::V6),
        _ => inside.parse().ok().map(IpAddr::V4),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules(allow: Option<&[&str]>, block: &[&str]) -> Rules {
        let text = include_str!("../testdata/settings.json");
        let mut settings = Settings::parse(text, std::path::Path::new("sample")).unwrap();
        let owned = |list: &[&str]| list.iter().map(|&domain| domain.to_owned()).collect();
        settings.federation.allow = allow.map(owned);
        settings.federation.block = owned(block);
        Rules::new(&settings)
    }

    #[test]
    fn blocked_domains_in_every_spelling() {
        let rules = rules(
            None,
            &[
                "bad.test",
                "xn--bcher-kva.test",
                "[192.0.2.1]",
                "[IPv6:2001:db8::1]",
            ],
        );
        for (address, domain) in [
            ("a@bad.test", "bad.test"),
            ("a@BAD.Test", "bad.test"),
            ("a@bad.test.", "bad.test"),
            ("a@bad.test..", "bad.test"),
            ("a@mx.Bad.test", "mx.bad.test"),
            ("\"a@ok.test\"@bad.test", "bad.test"),
            ("@ok.test:a@bad.test", "bad.test"),
            ("a@b\u{fc}cher.test", "xn--bcher-kva.test"),
            ("a@B\u{dc}CHER\u{3002}test", "xn--bcher-kva.test"),
            ("a@XN--BCHER-KVA.test", "xn--bcher-kva.test"),
            ("a@sub.b\u{fc}cher.test\u{3002}", "sub.xn--bcher-kva.test"),
            ("a@\u{ff42}\u{ff41}\u{ff44}.test", "bad.test"),
            ("a@[192.0.2.1]", "[192.0.2.1]"),
            ("a@[192.0.2.1].", "[192.0.2.1]"),
            ("a@[IPv6:::ffff:192.0.2.1]", "[192.0.2.1]"),
            ("a@[ipv6:2001:0DB8:0::1]", "[2001:db8::1]"),
            // A route through the relay itself.
            ("a@bad.test@chat.example.org", "bad.test"),
            ("a@bad.test@chat.example.org@Chat.example.org.", "bad.test"),
        ] {
            assert_eq!(rules.refused(address).as_deref(), Some(domain), "{address}");
        }
        for address in [
            "",
            "a",
            "postmaster",
            "a@ok.test",
            "a@notbad.test",
            "a@bad.test.example",
            "a@test",
            "bad.test@ok.test",
            "a@[192.0.2.2]",
            "a@[bad.test]",
            "a@",
        ] {
            assert_eq!(rules.refused(address), None, "{address}");
        }
    }

    #[test]
    fn only_allowed_domains_and_the_relay_itself() {
        let rules = rules(Some(&["good.test", "[192.0.2.1]"]), &["evil.good.test"]);
        for address in [
            "a@good.test",
            "a@Sub.Good.test.",
            "a@[192.0.2.1]",
            "a@chat.example.org",
            "a@CHAT.example.org.",
            "",
        ] {
            assert_eq!(rules.refused(address), None, "{address}");
        }
        for address in [
            "a@other.test",
            "a@evil.good.test",
            "a@x.evil.good.test",
            "a@test",
            "a@[192.0.2.2]",
            "a@[IPv6:2001:db8::1]",
            "a@sub.chat.example.org",
            "a@",
            "a@other.test@chat.example.org",
        ] {
            assert!(rules.refused(address).is_some(), "{address}");
        }
        assert!(
            super::tests::rules(Some(&[]), &[])
                .refused("a@good.test")
                .is_some()
        );
    }

    #[test]
    fn no_rule_applies_to_the_relay_itself() {
        assert_eq!(rules(None, &["org"]).refused("a@chat.example.org"), None);
        assert!(rules(None, &["org"]).refused("a@example.org").is_some());
        assert_eq!(rules(None, &[]).refused("a@example.org"), None);
    }

    proptest! {
        #[test]
        fn case_and_final_dots_make_no_difference(domain in "[a-zA-Z0-9._é\u{3002}-]{0,40}") {
            let rules = rules(Some(&["a.test"]), &["b.test"]);
            let blocked = rules.refused(&format!("x@{domain}.b.test"));
            prop_assert!(blocked.is_some());
            let allowed = |text: &str| rules.refused(&format!("x@{text}")).is_none();
            prop_assert_eq!(allowed(&domain), allowed(&format!("{}.", domain.to_ascii_uppercase())));
        }
    }
}
