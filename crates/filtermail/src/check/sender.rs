//! The one address in a `From` field (RFC 5322 section 3.6.2).
//!
//! Only forms that every program reads alike: a bare address, or a name and an address in angle brackets. Lists,
//! groups, routes and quoted localparts are refused, because the address that we verify has to be the one that the
//! receiver's program shows.

use std::net::IpAddr;

/// An address as it stands in the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sender<'a> {
    address: &'a str,
    domain: &'a str,
}

impl<'a> Sender<'a> {
    /// Parses the unfolded value of a `From` field.
    pub fn parse(value: &'a str) -> Option<Self> {
        // A name or a bare address; empty once there is more than one word.
        let mut plain: Option<&str> = None;
        // A name that looks like an address misleads, and needs quotes anyway (RFC 5322 section 3.2.3).
        let mut name_has_at = false;
        let mut angle: Option<&str> = None;
        let mut rest = value.trim();
        while let Some(first) = rest.chars().next() {
            if angle.is_some() && first != '(' {
                return None;
            }
            rest = match first {
                '"' => skip_quoted(rest)?,
                '(' => skip_comment(rest)?,
                '<' => {
                    let (inside, after) = rest.strip_prefix('<')?.split_once('>')?;
                    angle = Some(inside);
                    after
                }
                '>' | ')' | ',' | ';' | '\\' => return None,
                _ => {
                    let end = rest.find(is_special).unwrap_or(rest.len());
                    // Outside quotes a colon begins a group, except in a bare address with an IPv6 literal.
                    let (word, after) = rest.split_at_checked(end)?;
                    plain = Some(if plain.is_some() { "" } else { word });
                    name_has_at |= word.contains('@');
                    if word.contains(':') && !word.contains("@[") {
                        return None;
                    }
                    after
                }
            }
            .trim_start();
        }
        let address = match (angle, plain) {
            (Some(address), _) if !name_has_at => address,
            (None, Some(address)) => address,
            _ => return None,
        };
        let (localpart, domain) = address.split_once('@')?;
        let valid = is_localpart(localpart) && (is_domain(domain) || literal(domain).is_some());
        valid.then_some(Self { address, domain })
    }

    /// The whole address.
    pub fn address(&self) -> &'a str {
        self.address
    }

    /// What stands behind the `@`.
    pub fn domain(&self) -> &'a str {
        self.domain
    }

    /// The domain, if it is an address literal (RFC 5321 section 4.1.3).
    pub fn literal(&self) -> Option<IpAddr> {
        literal(self.domain)
    }
}

fn literal(domain: &str) -> Option<IpAddr> {
    let inside = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inside.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inside.get(5..)?.parse().ok().map(IpAddr::V6),
        _ => inside.parse().ok().map(IpAddr::V4),
    }
}

fn is_special(c: char) -> bool {
    c.is_whitespace() || matches!(c, '"' | '(' | ')' | '<' | '>' | ',' | ';' | '\\')
}

/// A dot-atom (RFC 5322 section 3.2.3), or characters beyond ASCII (RFC 6531 section 3.3).
fn is_localpart(text: &str) -> bool {
    let atom =
        |c: char| c.is_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c) || (c > '\x7f' && !c.is_control());
    !text.is_empty()
        && text
            .split('.')
            .all(|part| !part.is_empty() && part.chars().all(atom))
}

fn is_domain(text: &str) -> bool {
    let label = |label: &str| {
        !label.is_empty()
            && label
                .chars()
                .all(|c| c.is_alphanumeric() || matches!(c, '-' | '_'))
    };
    text.len() <= 255 && text.split('.').all(label)
}

/// What follows a quoted string.
fn skip_quoted(text: &str) -> Option<&str> {
    let mut chars = text.strip_prefix('"')?.chars();
    loop {
        match chars.next()? {
            '"' => return Some(chars.as_str()),
            '\\' => drop(chars.next()?),
            _ => {}
        }
    }
}

/// What follows a comment; comments nest.
fn skip_comment(text: &str) -> Option<&str> {
    let mut chars = text.chars();
    let mut depth = 0_usize;
    loop {
        match chars.next()? {
            '(' => depth += 1,
            ')' => depth -= 1,
            '\\' => drop(chars.next()?),
            _ => {}
        }
        if depth == 0 {
            return Some(chars.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(value: &str) -> Option<&str> {
        Sender::parse(value).map(|sender| sender.address)
    }

    #[test]
    fn forms_that_everybody_reads_alike() {
        for value in [
            "abc@c.test",
            "<abc@c.test>",
            "Mr. A. B <abc@c.test>",
            "\"A, \\\" <x@y> B\" <abc@c.test>",
            "=?utf-8?q?A_B?= <abc@c.test>",
            "abc@c.test (A (nested) comment)",
            "Mail Delivery System <abc@c.test> (x)",
        ] {
            assert_eq!(address(value), Some("abc@c.test"), "{value}");
        }
        assert_eq!(
            address("MAILER-DAEMON@_a.test (Mail Delivery System)"),
            Some("MAILER-DAEMON@_a.test")
        );
        assert_eq!(
            Sender::parse("a@[192.0.2.1]").unwrap().literal(),
            Some("192.0.2.1".parse().unwrap())
        );
        assert_eq!(
            Sender::parse("A <a@[IPv6:2001:db8::1]>").unwrap().literal(),
            Some("2001:db8::1".parse().unwrap())
        );
    }

    #[test]
    fn forms_that_hide_the_sender() {
        for value in [
            "",
            "abc",
            "@c.test",
            "abc@",
            "a@b.test, c@d.test",
            "<a@b.test>, <c@d.test>",
            "<a@b.test> <c@d.test>",
            "a@b.test <c@d.test>",
            "A a@b.test <c@d.test>",
            "a@b.test c@d.test",
            "group: a@b.test;",
            "A B a@b.test",
            "<@x.test:a@b.test>",
            "<a@b.test",
            "a@b@c.test",
            "\"a b\"@c.test",
            "<a @b.test>",
            "a@b..test",
            "a@[1.2.3]",
            "<a@b.test> x",
            "(x a@b.test",
        ] {
            assert_eq!(address(value), None, "{value}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in "(<|>|\\(|\\)|\"|\\\\|@|,|:|;|\\[|\\]|a|é| |\\.){0,20}") {
            if let Some(found) = address(&value) {
                prop_assert_eq!(found.matches('@').count(), 1);
            }
        }
    }
}
