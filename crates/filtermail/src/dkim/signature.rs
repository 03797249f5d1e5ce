//! One `DKIM-Signature` field (RFC 6376 section 3.5), parsed once.

use base64::Engine as _;
use base64::alphabet;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use mail_auth::common::crypto::Algorithm;
use mail_auth::dkim::Canonicalization;

use super::keys::key_name;
use super::record::Key;
use super::tags;
use crate::check::mime::Entity;

/// Why a signature of another domain does not count.
pub(super) const FOREIGN: &str = "No signature by the domain of the From header";

const MALFORMED: &str = "Malformed DKIM signature";

/// Programs differ in how they write the last bits and the padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &alphabet::STANDARD,
    GeneralPurposeConfig::new()
        .with_decode_allow_trailing_bits(true)
        .with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// A signature that counts if its key verifies it.
pub(super) struct Signature {
    /// Name of the field as the message spells it.
    name: Vec<u8>,
    /// Value of the field as it was signed, without the value of `b=`.
    value: Vec<u8>,
    algorithm: Algorithm,
    header: Canonicalization,
    /// Canonicalization of the body.
    pub(super) body: Canonicalization,
    /// Hash of the canonical body (`bh=`).
    pub(super) body_hash: Vec<u8>,
    /// Names of the signed fields (`h=`).
    names: Vec<String>,
    /// Whether the identity (`i=`) is of a domain below the one that signed.
    subdomain: bool,
    signature: Vec<u8>,
    /// Name of the key in the DNS.
    pub(super) key_name: String,
}

impl Signature {
    /// Parses a field. An error says why the signature does not count for `domain`, which is in lower case. `now` is in
    /// seconds of Unix time.
    pub(super) fn parse(name: &[u8], value: &[u8], domain: &str, now: u64) -> Result<Self, &'static str> {
        let tags = tags::parse(value).ok_or(MALFORMED)?;
        let tag = |name| tags::value(&tags, name);
        let lower = |name| {
            let text = tag(name).and_then(|value| std::str::from_utf8(value).ok());
            text.filter(|text| !text.is_empty()).map(str::to_ascii_lowercase)
        };
        if lower("d").ok_or(MALFORMED)? != domain {
            return Err(FOREIGN);
        }
        if tag("v") != Some(b"1") {
            return Err("Unknown version of the DKIM signature");
        }
        let algorithm = match lower("a").as_deref() {
            Some("rsa-sha256") => Algorithm::RsaSha256,
            Some("ed25519-sha256") => Algorithm::Ed25519Sha256,
            // RFC 8301 section 3.1: a signature with SHA-1 counts as none.
            Some("rsa-sha1") | None => return Err("Signature is not made with SHA-256"),
            Some(_) => return Err(MALFORMED),
        };
        let (header, body) = canonicalizations(tag("c")).ok_or(MALFORMED)?;
        let names: Vec<String> = lower("h")
            .ok_or(MALFORMED)?
            .split(':')
            .map(|name| name.trim_ascii().to_owned())
            .collect();
        // RFC 6376 section 5.4: the From field is always signed.
        if !names.iter().any(|name| name == "from") {
            return Err("Signature does not cover From");
        }
        let identity = lower("i").unwrap_or_default();
        let identity = identity.rsplit_once('@').map_or(&*identity, |(_, domain)| domain);
        if !identity.is_empty() && !is_below(identity, domain) {
            return Err("AUID does not match domain name");
        }
        // Others could append text of their own.
        if tag("l").is_some() {
            return Err("Signature does not cover the whole body");
        }
        if tag("q").is_some_and(|methods| !tags::lists(methods, &["dns/txt"])) {
            return Err("Unknown way to find the key");
        }
        let made = seconds(tag("t")).ok_or(MALFORMED)?;
        let expires = seconds(tag("x")).ok_or(MALFORMED)?;
        if let Some(expires) = expires
            && (expires <= now || made.is_some_and(|made| expires <= made))
        {
            return Err("Signature expired");
        }
        let selector = lower("s").ok_or(MALFORMED)?;
        Ok(Self {
            name: name.to_owned(),
            value: without_signature(value),
            algorithm,
            header,
            body,
            body_hash: base64(tag("bh")).ok_or(MALFORMED)?,
            names,
            subdomain: !identity.is_empty() && identity != domain,
            signature: base64(tag("b")).ok_or(MALFORMED)?,
            key_name: key_name(&selector, domain).ok_or("Malformed selector or domain")?,
        })
    }

    /// Verifies the header of the message with a key. An error says why the signature does not count.
    pub(super) fn verify(&self, message: &Entity<'_>, key: &Key) -> Result<(), String> {
        // RFC 6376 section 3.6.1, `t=s`.
        if key.strict && self.subdomain {
            return Err("AUID does not match domain name".to_owned());
        }
        let mut fields = signed_fields(message, &self.names);
        fields.push((&self.name, &self.value));
        key.key
            .p
            .verify(
                &mut fields.into_iter(),
                &self.signature,
                self.header,
                self.algorithm,
            )
            .map_err(|error| error.to_string())
    }
}

/// Canonicalizations of header and body (`c=`); `simple` is the default of both.
fn canonicalizations(value: Option<&[u8]>) -> Option<(Canonicalization, Canonicalization)> {
    let value = match value {
        None => "simple".to_owned(),
        Some(value) => std::str::from_utf8(value).ok()?.to_ascii_lowercase(),
    };
    let (header, body) = value.split_once('/').unwrap_or((&value, "simple"));
    let one = |name: &str| match name {
        "simple" => Some(Canonicalization::Simple),
        "relaxed" => Some(Canonicalization::Relaxed),
        _ => None,
    };
    Some((one(header)?, one(body)?))
}

/// The bytes of a tag in base64, which white space may fold anywhere; none unless there is at least one.
fn base64(value: Option<&[u8]>) -> Option<Vec<u8>> {
    let mut chars = value?.to_vec();
    chars.retain(|b| !b.is_ascii_whitespace());
    BASE64.decode(chars).ok().filter(|bytes| !bytes.is_empty())
}

/// The fields that a signature names, each from the last one up (RFC 6376 section 5.4.2).
fn signed_fields<'a>(message: &Entity<'a>, names: &[String]) -> Vec<(&'a [u8], &'a [u8])> {
    let mut left: Vec<_> = message.fields().flatten().collect();
    left.reverse();
    let mut signed = Vec::with_capacity(names.len() + 1);
    for name in names {
        // White space before the colon is not part of the name (section 3.4.2).
        let found = left
            .iter()
            .position(|(found, _)| found.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()));
        // A name without a field states that no further field of that name exists.
        if let Some(at) = found {
            signed.push(left.remove(at));
        }
    }
    signed
}

/// Seconds in a tag that may be absent; none if the value is not a number.
fn seconds(value: Option<&[u8]>) -> Option<Option<u64>> {
    match value {
        None => Some(None),
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
            Some(Some(std::str::from_utf8(digits).ok()?.parse().ok()?))
        }
        Some(_) => None,
    }
}

/// Whether `found` is `domain` or one of its subdomains.
fn is_below(found: &str, domain: &str) -> bool {
    found
        .strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The value of a signature's field as signed: without its line break and without the value of `b=` (RFC 6376 section
/// 3.7).
fn without_signature(value: &[u8]) -> Vec<u8> {
    let value = value.strip_suffix(b"\r\n").unwrap_or(value);
    let mut plain = Vec::with_capacity(value.len());
    for (number, spec) in value.split(|b| *b == b';').enumerate() {
        if number > 0 {
            plain.push(b';');
        }
        match spec.iter().position(|b| *b == b'=') {
            Some(at) if spec.get(..at).is_some_and(|name| name.trim_ascii() == b"b") => {
                plain.extend_from_slice(spec.get(..=at).unwrap_or_default());
            }
            _ => plain.extend_from_slice(spec),
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "v=1; a=rsa-sha256; d=c.test; s=mail; c=relaxed/relaxed; h=From:To; bh=YQ==; b=YQ==; t=1000; x=2000";

    fn count(tags: &str) -> Result<(), String> {
        Signature::parse(b"DKIM-Signature", tags.as_bytes(), "c.test", 1500)
            .map(drop)
            .map_err(str::to_owned)
    }

    #[test]
    fn signatures_that_count() {
        for (old, new) in [
            ("", ""),
            ("d=c.test", "d=C.TEST"),
            ("; t=1000; x=2000", ""),
            ("t=1000; ", ""),
            ("s=mail", "s=mail; i=@sub.c.test; q=dns/txt"),
            ("h=From:To", "h=to : from :\r\n from"),
            ("b=YQ==; t", "b=Y\r\n\tQ==; t"),
            ("b=YQ==; t", "b=YR; t"),
            ("relaxed/relaxed", "relaxed"),
            ("c=relaxed/relaxed; ", ""),
            ("s=mail", "s=mail; i=a=40b@c.test"),
        ] {
            assert_eq!(count(&GOOD.replace(old, new)), Ok(()), "{old} {new}");
        }
    }

    #[test]
    fn signatures_that_do_not_count() {
        let malformed = "Malformed DKIM signature";
        for (old, new, want) in [
            ("d=c.test", "d=test", FOREIGN),
            ("d=c.test", "d=sub.c.test", FOREIGN),
            ("v=1", "v=2", "Unknown version of the DKIM signature"),
            ("v=1; ", "", "Unknown version of the DKIM signature"),
            ("rsa-sha256", "rsa-sha1", "Signature is not made with SHA-256"),
            ("a=rsa-sha256; ", "", "Signature is not made with SHA-256"),
            ("rsa-sha256", "dsa-sha256", malformed),
            ("h=From:To", "h=To", "Signature does not cover From"),
            ("s=mail", "s=mail; i=@xc.test", "AUID does not match domain name"),
            ("s=mail", "s=mail; l=0", "Signature does not cover the whole body"),
            (
                "s=mail",
                "s=mail; l=10",
                "Signature does not cover the whole body",
            ),
            ("s=mail", "s=mail; q=x", "Unknown way to find the key"),
            ("x=2000", "x=1500", "Signature expired"),
            ("x=2000", "x=999", "Signature expired"),
            ("x=2000", "x=never", malformed),
            ("t=1000", "t=-1", malformed),
            ("t=1000", "d=c.test", malformed),
            ("s=mail", "s=a..b", "Malformed selector or domain"),
            ("s=mail", "s=.", "Malformed selector or domain"),
            ("s=mail", "s=a/b", "Malformed selector or domain"),
            ("; s=mail", "", malformed),
            ("s=mail", "s=mail; s=other", malformed),
            ("relaxed/relaxed", "relaxed/x", malformed),
            ("relaxed/relaxed", "", malformed),
            ("b=YQ==", "b=Y*==", malformed),
            ("b=YQ==", "b=", malformed),
            ("d=c.test", "d=c. test", FOREIGN),
            ("; bh=YQ==", "", malformed),
        ] {
            let changed = GOOD.replacen(old, new, 1);
            assert_eq!(count(&changed), Err(want.to_owned()), "{old} {new}");
        }
        let long = GOOD.replace("s=mail", &format!("s={}", "x".repeat(64)));
        assert_eq!(count(&long), Err("Malformed selector or domain".to_owned()));
        assert_eq!(count(""), Err(malformed.to_owned()));
    }

    #[test]
    fn the_signature_itself_is_not_signed() {
        for (value, plain) in [
            (" b=abc; h=From\r\n", " b=; h=From"),
            (" bh=x=; h=From;b=abc\r\n", " bh=x=; h=From;b="),
            (" h=b=c; b = abc\r\n def\r\n ; v=1\r\n", " h=b=c; b =; v=1"),
        ] {
            assert_eq!(
                String::from_utf8(without_signature(value.as_bytes())).unwrap(),
                plain
            );
        }
    }

    #[test]
    fn fields_are_taken_from_the_last_upwards() {
        let message = "X: 1\r\nA: 2\r\nx : 3\r\nX: 4\r\n\r\n";
        let entity = Entity {
            head: message.as_bytes(),
            body: b"",
        };
        let names = |names: &[&str]| {
            let names: Vec<String> = names.iter().map(|name| (*name).to_owned()).collect();
            let text = |(_, value): (&[u8], &[u8])| String::from_utf8_lossy(value).trim().to_owned();
            signed_fields(&entity, &names)
                .into_iter()
                .map(text)
                .collect::<String>()
        };
        assert_eq!(
            names(&["x", "x"]),
            if entity.fields().all(|field| field.is_some()) {
                "43"
            } else {
                "41"
            }
        );
        assert_eq!(names(&["a", "b", "a", "X"]), "24");
    }
}
