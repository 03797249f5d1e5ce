//! The signatures of a message: which of them count, and whether one is valid.

use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::{Canonicalization, Signature};

use super::keys::{Found, key_name};
use super::record::Key;
use super::{DkimVerdict, FoundKeys, body_hash, tags};
use crate::check::mime::Entity;

/// Signatures looked at per message, so that a message cannot make us look up any number of keys.
const MAX_SIGNATURES: usize = 5;

const UNSIGNED: &str = "No DKIM signature found";
const FOREIGN: &str = "No signature by the domain of the From header";

/// The signatures of a message that count so far, at least one.
pub struct Signatures(Vec<OneSignature>);

struct OneSignature {
    /// The field's name and value as they stand in the message.
    field: (Vec<u8>, Vec<u8>),
    signature: Signature,
    key_name: String,
}

impl Signatures {
    /// Finds the signatures by `domain` (lower case) that the body agrees with. An error is why there is none.
    ///
    /// The header is within the bounds of [`crate::check::bounds`]. This takes time in proportion to the body, for
    /// each canonicalization once. `now` is in seconds since 1970.
    pub fn find(message: &Entity<'_>, domain: &str, now: u64) -> Result<Self, String> {
        let mut signatures = parse(message, domain, now)?;
        let mut hashes: Vec<(Canonicalization, Vec<u8>)> = Vec::new();
        for one in &signatures {
            let wanted = one.signature.cb;
            if !hashes.iter().any(|(known, _)| *known == wanted) {
                hashes.push((wanted, body_hash(wanted, message.body)));
            }
        }
        signatures.retain(|OneSignature { signature, .. }| {
            hashes
                .iter()
                .any(|(known, hash)| *known == signature.cb && *hash == signature.bh)
        });
        if signatures.is_empty() {
            return Err("Calculated body hash does not match signature hash".to_owned());
        }
        Ok(Self(signatures))
    }

    /// Where the keys of the signatures are, in their order.
    pub fn key_names(&self) -> Vec<String> {
        self.0.iter().map(|one| one.key_name.clone()).collect()
    }

    /// Verifies: one valid signature is enough. Short of that, a key that may appear later keeps the message from
    /// being refused for good. The keys are those at [`Self::key_names`].
    pub fn verify(&self, message: &Entity<'_>, found: &FoundKeys) -> DkimVerdict {
        let mut temporary = None;
        let mut invalid: Option<String> = None;
        for (one, found) in self.0.iter().zip(&found.0) {
            match found {
                Found::Failed(reason) => drop(temporary.get_or_insert(reason)),
                Found::Nothing(reason) => drop(invalid.get_or_insert((*reason).to_owned())),
                Found::Keys(keys) => {
                    for key in keys.iter() {
                        match one.verify(message, key) {
                            Ok(()) => return DkimVerdict::Valid,
                            Err(reason) => drop(invalid.get_or_insert(reason)),
                        }
                    }
                }
            }
        }
        match (temporary, invalid) {
            (Some(reason), _) => DkimVerdict::Temporary(reason.to_string()),
            (None, reason) => DkimVerdict::Invalid(reason.unwrap_or_else(|| UNSIGNED.to_owned())),
        }
    }
}

/// Signatures that count, whatever the body is.
fn parse(message: &Entity<'_>, domain: &str, now: u64) -> Result<Vec<OneSignature>, String> {
    let mut reason = UNSIGNED;
    let mut signatures = Vec::new();
    for (name, value) in message.fields().flatten() {
        if !name.trim_ascii().eq_ignore_ascii_case(b"DKIM-Signature") {
            continue;
        }
        match OneSignature::parse(name, value, domain, now) {
            Ok(found) => signatures.push(found),
            // Of several reasons the most telling one is passed on.
            Err(why) if reason == UNSIGNED || reason == FOREIGN => reason = why,
            Err(_) => {}
        }
        if signatures.len() == MAX_SIGNATURES {
            break;
        }
    }
    if signatures.is_empty() {
        return Err(reason.to_owned());
    }
    Ok(signatures)
}

/// The fields that a signature names, each from the last one upwards (RFC 6376 section 5.4.2).
fn signed_fields<'a>(message: &Entity<'a>, names: &[String]) -> Vec<(&'a [u8], &'a [u8])> {
    let mut left: Vec<_> = message.fields().flatten().collect();
    left.reverse();
    let mut signed = Vec::with_capacity(names.len() + 1);
    for name in names {
        // White space before the colon is no part of the name (section 3.4.2).
        let found = left
            .iter()
            .position(|(found, _)| found.trim_ascii_end().eq_ignore_ascii_case(name.as_bytes()));
        // A name without a field says that there shall be no other.
        if let Some(at) = found {
            signed.push(left.remove(at));
        }
    }
    signed
}

impl OneSignature {
    /// Parses one field. An error is why it does not count.
    fn parse(name: &[u8], value: &[u8], domain: &str, now: u64) -> Result<Self, &'static str> {
        const MALFORMED: &str = "Malformed DKIM signature";
        let tags = tags::parse(value).ok_or(MALFORMED)?;
        let value_of = |name| tags::value(&tags, name);
        let signature = Signature::parse(value).map_err(|_| MALFORMED)?;
        if signature.d != domain {
            return Err(FOREIGN);
        }
        if value_of("v") != Some(b"1") {
            return Err("Unknown version of the DKIM signature");
        }
        // RFC 8301 section 3.1: SHA-1 counts as no signature.
        if value_of("a").is_none() || HashAlgorithm::from(signature.a) != HashAlgorithm::Sha256 {
            return Err("Signature is not made with SHA-256");
        }
        // RFC 6376 section 5.4: the From field is always signed.
        if !signature.h.iter().any(|name| name.eq_ignore_ascii_case("from")) {
            return Err("Signature does not cover From");
        }
        if !signature.i.is_empty() && !is_below(identity_domain(&signature.i), domain) {
            return Err("AUID does not match domain name");
        }
        // Others could add text of their own.
        if value_of("l").is_some() {
            return Err("Signature does not cover the whole body");
        }
        if value_of("q").is_some_and(|methods| !tags::lists(methods, &["dns/txt"])) {
            return Err("Unknown way to find the key");
        }
        let made = seconds(value_of("t")).ok_or(MALFORMED)?;
        let expires = seconds(value_of("x")).ok_or(MALFORMED)?;
        if let Some(expires) = expires
            && (expires <= now || made.is_some_and(|made| expires <= made))
        {
            return Err("Signature expired");
        }
        let key_name = key_name(&signature.s, &signature.d).ok_or("Malformed selector or domain")?;
        Ok(Self {
            field: (name.to_owned(), value.to_owned()),
            signature,
            key_name,
        })
    }

    fn verify(&self, message: &Entity<'_>, key: &Key) -> Result<(), String> {
        let signature = &self.signature;
        // RFC 6376 section 3.6.1, `t=s`.
        if key.strict && !signature.i.is_empty() && identity_domain(&signature.i) != signature.d {
            return Err("AUID does not match domain name".to_owned());
        }
        let (name, value) = &self.field;
        let value = without_signature(value);
        let mut fields = signed_fields(message, &signature.h);
        fields.push((name, &value));
        key.key
            .p
            .verify(&mut fields.into_iter(), &signature.b, signature.ch, signature.a)
            .map_err(|error| error.to_string())
    }
}

/// Seconds of a tag that may be absent; none when it is no number.
fn seconds(value: Option<&[u8]>) -> Option<Option<u64>> {
    match value {
        None => Some(None),
        Some(digits) if digits.iter().all(u8::is_ascii_digit) => {
            Some(Some(std::str::from_utf8(digits).ok()?.parse().ok()?))
        }
        Some(_) => None,
    }
}

/// Domain of an identity (RFC 6376 section 3.5, `i=`).
fn identity_domain(identity: &str) -> &str {
    identity.rsplit_once('@').map_or(identity, |(_, domain)| domain)
}

/// Whether a domain is this one or below it.
fn is_below(found: &str, domain: &str) -> bool {
    found
        .strip_suffix(domain)
        .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

/// The value of a signature's field as it was signed: without its line break and without the value of `b=` (RFC 6376
/// section 3.7).
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

    fn count(tags: &str) -> Result<usize, String> {
        let message = format!("DKIM-Signature: {tags}\r\nFrom: a@c.test\r\n\r\n");
        let entity = Entity::message(message.as_bytes()).unwrap();
        parse(&entity, "c.test", 1500).map(|signatures| signatures.len())
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
        ] {
            assert_eq!(count(&GOOD.replace(old, new)), Ok(1), "{old} {new}");
        }
    }

    #[test]
    fn signatures_that_do_not_count() {
        let malformed = "Malformed DKIM signature";
        for (old, new, want) in [
            ("d=c.test", "d=test", FOREIGN),
            ("d=c.test", "d=sub.c.test", FOREIGN),
            ("v=1", "v=2", malformed),
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
    fn few_are_looked_at_and_the_most_telling_reason_is_kept() {
        let field = |tags: &str| format!("DKIM-Signature: {tags}\r\n");
        let parse = |fields: String| {
            let message = format!("{fields}\r\n");
            let entity = Entity::message(message.as_bytes()).unwrap();
            parse(&entity, "c.test", 1500).map(|signatures| signatures.len())
        };
        assert_eq!(parse(field(GOOD).repeat(50)), Ok(MAX_SIGNATURES));
        assert_eq!(parse(String::new()), Err(UNSIGNED.to_owned()));
        let foreign = field(&GOOD.replace("d=c.test", "d=list.test"));
        let expired = field(&GOOD.replace("x=2000", "x=1400"));
        for fields in [[&*foreign, &expired], [&expired, &foreign]] {
            assert_eq!(parse(fields.concat()), Err("Signature expired".to_owned()));
        }
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
