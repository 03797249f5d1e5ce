//! The signatures of a message: which of them count, and whether one is valid.

use mail_auth::dkim::Canonicalization;

use super::body::body_hash;
use super::keys::{Found, FoundKeys};
use super::signature::{FOREIGN, Signature};
use super::verdict::DkimVerdict;
use crate::check::mime::Entity;

/// Maximum number of signatures considered per message, which bounds the number of key lookups.
const MAX_SIGNATURES: usize = 5;

const UNSIGNED: &str = "No DKIM signature found";

/// The signatures of a message that count if their keys verify them; at least one.
pub struct Signatures(Vec<Signature>);

impl Signatures {
    /// Finds the signatures by `domain` (lower case) whose body hash matches. An error says why there is none.
    ///
    /// The header is within the bounds of [`crate::check::bounds`]. The body is hashed once for each canonicalization.
    /// `now` is in seconds of Unix time.
    pub fn find(message: &Entity<'_>, domain: &str, now: u64) -> Result<Self, String> {
        let mut signatures = parse(message, domain, now)?;
        let mut hashes: Vec<(Canonicalization, Vec<u8>)> = Vec::new();
        for one in &signatures {
            if !hashes.iter().any(|(known, _)| *known == one.body) {
                hashes.push((one.body, body_hash(one.body, message.body)));
            }
        }
        signatures.retain(|one| {
            hashes
                .iter()
                .any(|(known, hash)| *known == one.body && *hash == one.body_hash)
        });
        if signatures.is_empty() {
            return Err("Calculated body hash does not match signature hash".to_owned());
        }
        Ok(Self(signatures))
    }

    /// DNS names of the keys of the signatures, in their order.
    pub fn key_names(&self) -> Vec<String> {
        self.0.iter().map(|one| one.key_name.clone()).collect()
    }

    /// Verifies the signatures with the keys at [`Self::key_names`]. One valid signature is enough. Without one, a key
    /// whose lookup failed temporarily defers the message.
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

/// Parses the signatures that count, whatever the body is.
fn parse(message: &Entity<'_>, domain: &str, now: u64) -> Result<Vec<Signature>, String> {
    let mut reason = UNSIGNED;
    let mut signatures = Vec::new();
    for (name, value) in message.fields().flatten() {
        if !name.trim_ascii().eq_ignore_ascii_case(b"DKIM-Signature") {
            continue;
        }
        match Signature::parse(name, value, domain, now) {
            Ok(found) => signatures.push(found),
            // Of several reasons, the most specific one is reported.
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

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str =
        "v=1; a=rsa-sha256; d=c.test; s=mail; c=relaxed/relaxed; h=From:To; bh=YQ==; b=YQ==; t=1000; x=2000";

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
}
