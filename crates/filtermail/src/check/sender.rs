//! The one address in a `From` field (RFC 5322 section 3.6.2).
//!
//! Only forms that all programs parse alike are accepted: an address, an address in angle brackets, or a name and an
//! address in angle brackets. The address that we verify has to be the one that the recipient's program shows. Lists,
//! groups, routes, comments and quoted local parts are rejected.

use std::net::IpAddr;

use base64::Engine as _;
use base64::engine::GeneralPurpose;
use base64::engine::general_purpose::GeneralPurposeConfig;
use encoding_rs::Encoding;

use super::mime::unfold;
use crate::dns::is_label;

/// The comment after the address in reports of Postfix, the only comment that is accepted, and only there.
const REPORT_COMMENT: &str = "(Mail Delivery System)";

/// Maximum length of the field's value: a name of some lines and an address.
const MAX_VALUE: usize = 1000;

/// An address as spelled in the field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Sender {
    address: String,
    at: usize,
}

impl Sender {
    /// Parses the raw value of a `From` field.
    pub(super) fn parse(raw: &[u8]) -> Option<Self> {
        if raw.len() > MAX_VALUE || has_blank_line(raw) {
            return None;
        }
        let value = unfold(raw)?;
        if let Some(before) = value.strip_suffix(REPORT_COMMENT) {
            let sender = Self::addr_spec(before.strip_suffix(' ')?)?;
            return sender.is_mailer_daemon().then_some(sender);
        }
        let Some(before) = value.strip_suffix('>') else {
            // Programs take a colon for the end of a group's name.
            return Self::addr_spec(&value).filter(|_| !value.contains(':'));
        };
        let (name, address) = before.rsplit_once('<')?;
        is_name(name).then(|| Self::addr_spec(address)).flatten()
    }

    fn addr_spec(text: &str) -> Option<Self> {
        let (localpart, domain) = text.split_once('@')?;
        let valid = is_localpart(localpart) && (is_domain(domain) || literal(domain).is_some());
        valid.then(|| Self {
            address: text.to_owned(),
            at: localpart.len(),
        })
    }

    /// The whole address.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// The part before the `@`.
    pub(super) fn localpart(&self) -> &str {
        self.address.get(..self.at).unwrap_or_default()
    }

    /// The part after the `@`.
    pub(super) fn domain(&self) -> &str {
        self.address.get(self.at + 1..).unwrap_or_default()
    }

    /// The domain, if it is an address literal (RFC 5321 section 4.1.3).
    pub(super) fn literal(&self) -> Option<IpAddr> {
        literal(self.domain())
    }

    /// Whether this is the sender of delivery reports.
    pub(super) fn is_mailer_daemon(&self) -> bool {
        self.localpart().eq_ignore_ascii_case("mailer-daemon")
    }
}

/// Whether a folded line consists of white space.
fn has_blank_line(raw: &[u8]) -> bool {
    let lines = raw.strip_suffix(b"\r\n").unwrap_or(raw).split(|b| *b == b'\n');
    lines.skip(1).any(|line| line.trim_ascii().is_empty())
}

/// The address in a domain that is an address literal (RFC 5321 section 4.1.3).
pub(crate) fn literal(domain: &str) -> Option<IpAddr> {
    let inside = domain.strip_prefix('[')?.strip_suffix(']')?;
    match inside.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("IPv6:") => inside.get(5..)?.parse().ok().map(IpAddr::V6),
        _ => inside.parse().ok().map(IpAddr::V4),
    }
}

fn is_atom_character(c: char) -> bool {
    c.is_ascii_alphanumeric() || "!#$%&'*+-/=?^_`{|}~".contains(c)
}

/// A dot-atom (RFC 5322 section 3.2.3) within the length of RFC 5321. ASCII only: programs show other characters
/// differently.
fn is_localpart(text: &str) -> bool {
    text.len() <= 64
        && !looks_encoded(text)
        && text
            .split('.')
            .all(|part| !part.is_empty() && part.chars().all(is_atom_character))
}

fn is_domain(text: &str) -> bool {
    text.len() <= 255 && text.split('.').all(is_label)
}

/// Whether a program that decodes before it parses could find the beginning or end of an encoded word.
fn looks_encoded(text: &str) -> bool {
    text.contains("=?") || text.contains("?=")
}

/// Whether a name is empty, one quoted string, or a sequence of atoms and encoded words. White space has to follow an
/// encoded word (RFC 2047 section 5).
fn is_name(text: &str) -> bool {
    let name = text.trim_matches([' ', '\t']);
    if let Some(inside) = name.strip_prefix('"') {
        return inside.strip_suffix('"').is_some_and(is_quoted_content);
    }
    let mut words = name.split([' ', '\t']).filter(|word| !word.is_empty());
    words.all(|word| {
        if looks_encoded(word) {
            is_encoded_word(word)
        } else {
            // Dots (RFC 5322 section 4.1, obs-phrase) and characters beyond ASCII are common. Python fails to parse a
            // dot at the beginning of a word, or directly before the address.
            !word.starts_with('.')
                && word
                    .chars()
                    .all(|c| is_atom_character(c) || c == '.' || is_beyond_ascii(c))
        }
    }) && (text.ends_with([' ', '\t']) || !(looks_encoded(name) || text.ends_with('.')))
}

/// Letters and symbols beyond ASCII. [`unfold`] has rejected control characters. White space of other scripts is not
/// white space in mail, but some programs treat it so.
fn is_beyond_ascii(c: char) -> bool {
    !c.is_ascii() && !c.is_whitespace()
}

/// RFC 5322 section 3.2.4: quotes and backslashes follow a backslash.
fn is_quoted_content(text: &str) -> bool {
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let valid = match c {
            '"' => false,
            '\\' => matches!(chars.next(), Some(escaped) if escaped.is_ascii_graphic()),
            c => matches!(c, ' ' | '\t') || c.is_ascii_graphic() || is_beyond_ascii(c),
        };
        if !valid {
            return false;
        }
    }
    !looks_encoded(text)
}

/// An encoded word (RFC 2047 section 2) that contains no part of an address, for programs that decode before they
/// parse.
fn is_encoded_word(word: &str) -> bool {
    let parts = word
        .strip_prefix("=?")
        .and_then(|word| word.strip_suffix("?="))
        .map(|word| word.split('?').collect::<Vec<_>>());
    let Some([charset, encoding, text]) = parts.as_deref() else {
        return false;
    };
    let decoded = match *encoding {
        "B" | "b" => decode_base64(text),
        "Q" | "q" => decode_q(text),
        _ => None,
    };
    // A language may follow the charset (RFC 2231 section 5).
    let charset = charset.split('*').next().unwrap_or_default();
    let (Some(decoded), Some(charset)) = (decoded, Encoding::for_label_no_replacement(charset.as_bytes()))
    else {
        return false;
    };
    let (decoded, _) = charset.decode_without_bom_handling(&decoded);
    decoded
        .chars()
        .all(|c| !matches!(c, '<' | '>' | '@') && !c.is_control())
}

fn decode_base64(text: &str) -> Option<Vec<u8>> {
    // Non-zero trailing bits and missing padding are common mistakes.
    let lenient = GeneralPurpose::new(
        &base64::alphabet::STANDARD,
        GeneralPurposeConfig::new()
            .with_decode_allow_trailing_bits(true)
            .with_decode_padding_mode(base64::engine::DecodePaddingMode::Indifferent),
    );
    lenient.decode(text).ok()
}

/// RFC 2047 section 4.2, restricted to the characters that are safe in a name.
fn decode_q(text: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(text.len());
    let mut bytes = text.bytes();
    while let Some(b) = bytes.next() {
        decoded.push(match b {
            b'_' => b' ',
            b'=' => {
                let digits = [bytes.next()?, bytes.next()?];
                u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?
            }
            b if b.is_ascii_alphanumeric() || b"!#$%&'*+-./^`{|}~".contains(&b) => b,
            _ => return None,
        });
    }
    Some(decoded)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address(value: &str) -> Option<String> {
        Sender::parse(format!(" {value}\r\n").as_bytes()).map(|sender| sender.address)
    }

    #[test]
    fn forms_that_everybody_reads_alike() {
        for value in [
            "abc@c.test",
            "<abc@c.test>",
            "A<abc@c.test>",
            "Mr. A. B <abc@c.test>",
            "A B Jr. <abc@c.test>",
            "M\u{fc}ller <abc@c.test>",
            "\"M\u{fc}ller, A.\" <abc@c.test>",
            "\"\" <abc@c.test>",
            "\"A, \\\" <x@y> \\\\ B\"<abc@c.test>",
            "\"abc@c.test\" <abc@c.test>",
            "=?utf-8?q?A_B=2C?= <abc@c.test>",
            "=?UTF-8?B?TcO8bGxlcg==?=\r\n\t=?iso-8859-1*de?Q?M=FCller?= jun.\r\n <abc@c.test>",
            "=?ISO-2022-JP?B?GyRCRnwbKEI=?= <abc@c.test>",
        ] {
            assert_eq!(address(value).as_deref(), Some("abc@c.test"), "{value}");
        }
        for (value, ip) in [
            ("a@[192.0.2.1]", "192.0.2.1"),
            ("A <a@[IPv6:2001:db8::1]>", "2001:db8::1"),
        ] {
            let sender = Sender::parse(value.as_bytes()).unwrap();
            assert_eq!(sender.literal(), Some(ip.parse().unwrap()), "{value}");
        }
        let odd = "!#$%&'*+-/=^_?`{|}~.0@a-b._c";
        assert_eq!(address(odd).as_deref(), Some(odd));
    }

    #[test]
    fn a_comment_stands_only_in_reports() {
        let report = "MAILER-DAEMON@_a.test (Mail Delivery System)";
        assert_eq!(address(report).as_deref(), Some("MAILER-DAEMON@_a.test"));
        for value in [
            "abc@c.test (Mail Delivery System)",
            "<MAILER-DAEMON@c.test> (Mail Delivery System)",
            "MAILER-DAEMON@c.test (Mail Delivery System) (x)",
            "MAILER-DAEMON@c.test (x)",
            "(x) MAILER-DAEMON@c.test",
            "abc@c.test (A (nested) comment)",
            "abc@c.test ()",
            "abc(x)@c.test",
            "abc@(x)c.test",
            "A (x) <abc@c.test>",
            "<abc@c.test> (x)",
            "<abc@c.test(x)>",
            "Boss \"<boss12345@a.test>(\" <abc@c.test> (c)",
        ] {
            assert_eq!(address(value), None, "{value}");
        }
    }

    #[test]
    fn forms_that_hide_the_sender() {
        for value in [
            "",
            "abc",
            "@c.test",
            "abc@",
            "<>",
            "a@b.test, c@d.test",
            "<a@b.test>, <c@d.test>",
            "<a@b.test> <c@d.test>",
            "a@b.test <c@d.test>",
            "A a@b.test <c@d.test>",
            "A, B <c@d.test>",
            ".A <c@d.test>",
            "A.<c@d.test>",
            "A ..<c@d.test>",
            "A . B <c@d.test>",
            "\"A\" B <c@d.test>",
            "B \"A\" <c@d.test>",
            "\"A\" \"B\" <c@d.test>",
            "\"A\\\" <c@d.test>",
            "\"A\\ B\" <c@d.test>",
            "\"A\r\n \r\n B\" <c@d.test>",
            "a@b.test c@d.test",
            "group: a@b.test;",
            "group:;",
            "A: <a@b.test>",
            "A; <a@b.test>",
            "A[B] <a@b.test>",
            "A B a@b.test",
            "<@x.test:a@b.test>",
            "<@x.test,@y.test:a@b.test>",
            "<a@b.test",
            "a@b.test>",
            "<<a@b.test>>",
            "a@b@c.test",
            "<a@b@c.test>",
            "\"a b\"@c.test",
            "<\"a\"@c.test>",
            "<a @b.test>",
            "< a@b.test>",
            "<a@b.test >",
            "<a@b.test\r\n >",
            "<a@\r\n b.test>",
            "a@b..test",
            "a@b.test.",
            "a@.b.test",
            ".a@b.test",
            "a.@b.test",
            "a..b@b.test",
            "a@b_c\u{e9}.test",
            "\u{e9}@b.test",
            "a\u{a0}<a@b.test>",
            "a@b.test\u{a0}",
            "a@[1.2.3]",
            "a@[IPv6:2001:db8::1]",
            "a@[x]",
            "a@[192.0.2.1",
            "<a@b.test> x",
            "(x a@b.test",
            "mailto:a@b.test",
            "<mailto:a@b.test>",
            "A\0 <a@b.test>",
            "A\x0b <a@b.test>",
            "A\x7f <a@b.test>",
            "A\r\n \r\n <a@b.test>",
            "<a@b.test>\r\n ",
            "=?utf-8?q?A?=<a@b.test>",
            "=?utf-8?q?A?=B <a@b.test>",
            "B=?utf-8?q?A?= <a@b.test>",
            "=?utf-8?q?A B?= <a@b.test>",
            "=?utf-8?q?A <a@b.test>",
            "=?utf-8?q?A=3Cx=40y.test=3E=2C?= <a@b.test>",
            "=?utf-8?b?PHhAeS50ZXN0Pg==?= <a@b.test>",
            "=?utf-16be?b?ADwAeABAAHkAPg==?= <a@b.test>",
            "=?utf-7?q?+ADw-x+AEA-y+AD4-?= <a@b.test>",
            "=?utf-8?q?A=0D=0AB?= <a@b.test>",
            "=?utf-8?x?A?= <a@b.test>",
            "=?none?q?A?= <a@b.test>",
            "=?utf-8?q?\"A\"?= <a@b.test>",
            "\"=?utf-8?q?A?=\" <a@b.test>",
            "<=?utf-8?q?a?=@b.test>",
            "=?utf-8?q?a=40b.test?=",
        ] {
            assert_eq!(address(value), None, "{value:?}");
        }
        for long in [
            format!("{}@b.test", "a".repeat(65)),
            format!("a@{}.test", "b".repeat(64)),
            format!("a@{}test", "b.".repeat(130)),
            format!("{} <a@b.test>", "A".repeat(2000)),
        ] {
            assert_eq!(address(&long), None, "{long}");
        }
    }

    proptest! {
        #[test]
        fn never_panics(value in "(<|>|\\(|\\)|\"|\\\\|@|,|:|;|\\[|\\]|a|é| |\\.|=\\?|\\?=|\r\n |utf-8\\?q\\?){0,20}") {
            if let Some(found) = address(&value) {
                prop_assert_eq!(found.matches('@').count(), 1);
            }
        }
    }
}
