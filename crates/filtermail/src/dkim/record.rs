//! Key records (RFC 6376 section 3.6.1): which of them are usable.
//!
//! mail-auth parses the key itself. It ignores `h=` and `s=` and does not accept quotes, so this module checks them.

use std::borrow::Cow;
use std::sync::Arc;

use mail_auth::common::parse::TxtRecordParser as _;
use mail_auth::common::verify::DomainKey;

use super::tags;

/// Maximum size of a record; a key of 8192 bits takes 1.5 KiB.
const MAX_RECORD: usize = 8192;

/// A usable key.
#[derive(Clone)]
pub(super) struct Key {
    /// The public key.
    pub(super) key: Arc<DomainKey>,
    /// `t=s`: the identity (`i=`) must be in the domain itself, not in a subdomain.
    pub(super) strict: bool,
}

/// Why a record is not usable, as the SMTP reply reports it.
pub(super) type Unusable = &'static str;

impl Key {
    /// Parses a record.
    pub(super) fn parse(record: &[u8]) -> Result<Self, Unusable> {
        const MALFORMED: Unusable = "Malformed key record";
        if record.len() > MAX_RECORD {
            return Err(MALFORMED);
        }
        let record = unquoted(record);
        let tags = tags::parse(&record).ok_or(MALFORMED)?;
        let value = |name| tags::value(&tags, name);
        // Absent means the RFC's default.
        let lists = |name, words: &[&str]| value(name).is_none_or(|value| tags::lists(value, words));
        if value("v").is_some_and(|version| version != b"DKIM1") {
            return Err("Unknown version of the key record");
        }
        if !lists("h", &["sha256"]) {
            return Err("Key is not for SHA-256");
        }
        if !lists("s", &["*", "email"]) {
            return Err("Key is not for email");
        }
        let flags = |flag| value("t").is_some_and(|flags| tags::lists(flags, &[flag]));
        // Section 3.6.1: such mail is treated like unsigned mail, which is rejected.
        if flags("y") {
            return Err("Key is for testing only");
        }
        // RFC 4871 allowed keys for certain local parts only.
        if value("g").is_some_and(|granularity| granularity != b"*") {
            return Err("Key is not for all addresses");
        }
        let kind = match value("k") {
            None => "rsa",
            Some(kind) if kind.eq_ignore_ascii_case(b"rsa") => "rsa",
            Some(kind) if kind.eq_ignore_ascii_case(b"ed25519") => "ed25519",
            Some(_) => return Err("Unknown key type"),
        };
        let data: Vec<u8> = value("p")
            .ok_or(MALFORMED)?
            .iter()
            .copied()
            .filter(|b| !b.is_ascii_whitespace())
            .collect();
        if data.is_empty() {
            return Err("Key is revoked");
        }
        let plain = [b"k=", kind.as_bytes(), b"; p=", &data].concat();
        let key = DomainKey::parse(&plain).map_err(|_| MALFORMED)?;
        // RFC 8301 section 3.2; the library does not verify longer keys.
        if !(1024..=8192).contains(&key.p.public_key_bits()) && kind == "rsa" {
            return Err("Key has less than 1024 or more than 8192 bits");
        }
        Ok(Self {
            key: Arc::new(key),
            strict: flags("s"),
        })
    }
}

/// The record without quotes that somebody pasted from a zone file: those around the record, and those between its
/// strings with the white space that separates them.
fn unquoted(record: &[u8]) -> Cow<'_, [u8]> {
    if !record.contains(&b'"') {
        return Cow::Borrowed(record);
    }
    let mut plain = Vec::with_capacity(record.len());
    for piece in record.split(|b| *b == b'"') {
        // White space between two strings is dropped.
        if !piece.trim_ascii().is_empty() {
            plain.extend_from_slice(piece);
        }
    }
    Cow::Owned(plain)
}

#[cfg(test)]
mod tests {
    use super::*;

    const RSA: &str = "MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDwIRP/UC3SBsEmGqZ9ZJW3/DkMoGeLnQg1fWn7/zYtIxN2SnFCjxOCKG9v3b4jYfcTNh5ijSsq631uBItLa7od+v/RtdC2UzJ1lWT947qR+Rcac2gbto/NMqJ0fzfVjH4OuKhitdY9tf6mcwGjaNBcWToIMmPSPDdQPNUYckcQ2QIDAQAB";
    const ED25519: &str = "11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";

    fn reason(record: &str) -> Option<Unusable> {
        Key::parse(record.as_bytes()).err()
    }

    #[test]
    fn records_that_count() {
        let (first, second) = RSA.split_at(70);
        let (middle, last) = second.split_at(10);
        let folded = format!("{first} \t {second}");
        for record in [
            format!("p={RSA}"),
            format!("v=DKIM1; k=rsa; p={RSA}"),
            format!("v=DKIM1;h=sha1:sha256;k=rsa;s=tlsrpt:email;n=a note;p={RSA};"),
            format!("v=DKIM1; s=*; g=*; p={folded}"),
            format!("v=DKIM1; k=ed25519; p={ED25519}"),
            // Pasted with quotes, those of a zone file or those around the whole record.
            format!("v=DKIM1; k=rsa; p={first}\" \"{second}"),
            format!("\"v=DKIM1; k=rsa; p={first}\" \"{second}\""),
            format!("\"v=DKIM1; k=rsa; p={first}\"\t\"{middle}\"\"{last}\""),
            format!("\"v=DKIM1; k=r\" \"sa; p={RSA}\""),
        ] {
            assert_eq!(reason(&record), None, "{record}");
        }
        let strict = |record: String| Key::parse(record.as_bytes()).ok().unwrap().strict;
        assert!(strict(format!("v=DKIM1;k=rsa;p={RSA};s=email;t=s")));
        assert!(!strict(format!("v=DKIM1;k=rsa;p={RSA};t=x")));
    }

    #[test]
    fn records_that_do_not_count() {
        for (record, want) in [
            (format!("v=DKIM1; h=sha1; p={RSA}"), "Key is not for SHA-256"),
            (format!("v=DKIM1; h=; p={RSA}"), "Key is not for SHA-256"),
            (format!("v=DKIM1; s=tlsrpt; p={RSA}"), "Key is not for email"),
            (format!("v=DKIM1; t=y; p={RSA}"), "Key is for testing only"),
            (format!("v=DKIM1; t=s : y; p={RSA}"), "Key is for testing only"),
            (format!("v=DKIM1; g=; p={RSA}"), "Key is not for all addresses"),
            (
                format!("v=DKIM1; g=news*; p={RSA}"),
                "Key is not for all addresses",
            ),
            (format!("v=DKIM1; k=dsa; p={RSA}"), "Unknown key type"),
            ("v=DKIM1; p=".to_owned(), "Key is revoked"),
            ("v=DKIM1; k=rsa".to_owned(), "Malformed key record"),
            (format!("v=DKIM1; p={RSA}; p="), "Malformed key record"),
            (format!("v=DKIM1; p={RSA}; t"), "Malformed key record"),
            (format!("v=DKIM2; p={RSA}"), "Unknown version of the key record"),
            ("v=spf1 -all".to_owned(), "Unknown version of the key record"),
            ("hello".to_owned(), "Malformed key record"),
            (
                "v=DKIM1; p=MCQCHQDJ+qG9yNTN6Q5TTf2dJW7WwGVHLaqQjwvSVLyFAgMBAAE=".to_owned(),
                "Key has less than 1024 or more than 8192 bits",
            ),
            (
                format!("v=DKIM1; n={}; p={RSA}", "x".repeat(MAX_RECORD)),
                "Malformed key record",
            ),
        ] {
            assert_eq!(reason(&record), Some(want), "{record}");
        }
    }
}
