//! A mail server outside the lab: zones with DKIM keys, signed messages, delivery to port 25.

use std::net::IpAddr;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mail_auth::common::crypto::{RsaKey, Sha256};
use mail_auth::common::headers::HeaderWriter as _;
use mail_auth::dkim::DkimSigner;
use rustls::pki_types::PrivateKeyDer;
use rustls::pki_types::pem::PemObject as _;

use super::Peer;
use super::message::Message;
use super::smtp::Reply;

/// Sender domain of outside mail.
pub const DOMAIN: &str = "outside.test";
/// A domain that signs messages but sends none.
pub const SIGNER: &str = "signer.test";

const SELECTOR: &str = "mail";

/// Test keys of these two domains, which exist only in the lab.
const KEYS: [(&str, &str); 2] = [
    (DOMAIN, include_str!("../../testdata/outside.test.pem")),
    (SIGNER, include_str!("../../testdata/signer.test.pem")),
];

/// Prefix of the SubjectPublicKeyInfo of a 2048-bit RSA key, up to its RSAPublicKey (RFC 3279 section 2.3.1).
const SPKI_RSA_2048: [u8; 24] = [
    0x30, 0x82, 0x01, 0x22, 0x30, 0x0D, 0x06, 0x09, 0x2A, 0x86, 0x48, 0x86, 0xF7, 0x0D, 0x01, 0x01, 0x01,
    0x05, 0x00, 0x03, 0x82, 0x01, 0x0F, 0x00,
];

/// How a message is signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signing {
    /// Without a signature.
    None,
    /// By the domain in From.
    Good,
    /// With a valid signature of another domain.
    OtherDomain,
    /// In the name of the domain in From, with a key that is not the published one.
    WrongKey,
    /// With a valid signature, but the body is changed afterwards.
    BodyAltered,
}

fn key(domain: &str) -> anyhow::Result<RsaKey<Sha256>> {
    let pem = KEYS
        .iter()
        .find(|(known, _)| *known == domain)
        .map(|(_, pem)| pem)
        .context("no key for this domain")?;
    let der = PrivateKeyDer::from_pem_slice(pem.as_bytes())?;
    Ok(RsaKey::from_key_der(der)?)
}

/// Returns the zones of both domains as (name, BIND text). `host` is the address that sends their mail.
pub fn zones(host: IpAddr) -> anyhow::Result<Vec<(&'static str, String)>> {
    KEYS.iter()
        .map(|(domain, _)| {
            let record = format!("v=DKIM1; k=rsa; p={}", public_key(domain)?);
            Ok((*domain, zone(domain, host, &[(SELECTOR, &record)])))
        })
        .collect()
}

/// Returns the public key of one of the two domains, in base64.
pub fn public_key(domain: &str) -> anyhow::Result<String> {
    let spki = [&SPKI_RSA_2048[..], &key(domain)?.public_key()].concat();
    Ok(STANDARD.encode(spki))
}

/// Returns a zone as BIND text, with the address that sends its mail and TXT records at selectors.
pub fn zone(domain: &str, host: IpAddr, records: &[(&str, &str)]) -> String {
    let kind = if host.is_ipv4() { "A" } else { "AAAA" };
    let mut zone = format!("{domain}. 60 IN {kind} {host}\n{domain}. 60 IN MX 10 {domain}.\n");
    for (selector, record) in records {
        zone.push_str(&format!("{selector}._domainkey.{domain}. 60 IN TXT"));
        // A character-string of a TXT record holds at most 255 bytes (RFC 1035, 3.3).
        for string in record.as_bytes().chunks(255) {
            let escaped = String::from_utf8_lossy(string)
                .replace('\\', "\\\\")
                .replace('"', "\\\"");
            zone.push_str(&format!(" \"{escaped}\""));
        }
        zone.push('\n');
    }
    zone
}

/// Returns the message as bytes, signed in this way.
pub fn signed(message: &Message, signing: Signing) -> anyhow::Result<Vec<u8>> {
    signed_bytes(message.bytes(), signing)
}

/// Signs a message of any form.
pub fn signed_bytes(mut bytes: Vec<u8>, signing: Signing) -> anyhow::Result<Vec<u8>> {
    let (key_of, named) = match signing {
        Signing::None => return Ok(bytes),
        Signing::Good | Signing::BodyAltered => (DOMAIN, DOMAIN),
        Signing::OtherDomain => (SIGNER, SIGNER),
        Signing::WrongKey => (SIGNER, DOMAIN),
    };
    let mut signed = signature(&bytes, key_of, named, SELECTOR)?;
    if signing == Signing::BodyAltered {
        alter_body(&mut bytes);
    }
    signed.extend(bytes);
    Ok(signed)
}

/// Changes the case of one letter in the middle of the body, which keeps the structure of the armor intact.
fn alter_body(bytes: &mut [u8]) {
    let head = bytes
        .windows(4)
        .position(|four| four == b"\r\n\r\n")
        .unwrap_or_default();
    let (_, body) = bytes.split_at_mut(head);
    let middle = body.len() / 2;
    let (before, after) = body.split_at_mut(middle);
    let letter = after
        .iter_mut()
        .chain(before)
        .find(|byte| byte.is_ascii_alphabetic());
    if let Some(letter) = letter {
        *letter ^= 0x20;
    }
}

/// Signs a message with the key of [`DOMAIN`], for any domain and selector.
pub fn signed_as(message: &Message, domain: &str, selector: &str) -> anyhow::Result<Vec<u8>> {
    let bytes = message.bytes();
    Ok([signature(&bytes, DOMAIN, domain, selector)?, bytes].concat())
}

/// Returns the `DKIM-Signature` field for a message.
pub fn signature(message: &[u8], key_of: &str, domain: &str, selector: &str) -> anyhow::Result<Vec<u8>> {
    let signature = DkimSigner::from_key(key(key_of)?)
        .domain(domain)
        .selector(selector)
        .headers([
            "From",
            "To",
            "Subject",
            "Date",
            "Message-ID",
            "MIME-Version",
            "Content-Type",
        ])
        .sign(message)?;
    Ok(signature.to_header().into_bytes())
}

/// Delivers a message to one recipient as a mail server does; returns the reply that decides.
pub async fn deliver(peer: &Peer, from: &str, to: &str, message: &[u8]) -> anyhow::Result<Reply> {
    peer.exchange(DOMAIN).await?.send(from, &[to], message).await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::client::message::header;

    #[test]
    fn zones_hold_whole_keys() {
        let zones = zones("198.18.25.1".parse().unwrap()).unwrap();
        assert_eq!(zones.len(), 2);
        for (domain, text) in zones {
            let record = text.lines().last().unwrap();
            let strings: Vec<&str> = record.split('"').skip(1).step_by(2).collect();
            assert!(strings.iter().all(|string| string.len() <= 255));
            let (_, base64) = strings
                .concat()
                .split_once("p=")
                .map(|(a, b)| (a.to_owned(), b.to_owned()))
                .unwrap();
            assert_eq!(STANDARD.decode(base64).unwrap().len(), 294);
            assert!(record.starts_with(&format!("mail._domainkey.{domain}. ")));
        }
    }

    #[test]
    fn signatures_name_the_right_domain() {
        let message = Message::cleartext("someone@outside.test", "b@x.test", "hello", "body");
        let names = |signing| header(&signed(&message, signing).unwrap(), "DKIM-Signature");
        assert!(names(Signing::None).is_empty());
        assert!(names(Signing::Good)[0].contains("d=outside.test;"));
        assert!(names(Signing::WrongKey)[0].contains("d=outside.test;"));
        assert!(names(Signing::OtherDomain)[0].contains("d=signer.test;"));
        assert!(
            signed(&message, Signing::BodyAltered)
                .unwrap()
                .ends_with(b"bOdy\r\n")
        );
    }
}
