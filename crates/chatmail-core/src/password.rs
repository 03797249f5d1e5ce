//! Password hashes in Dovecot's `{SCHEME}hash` form.

use argon2::password_hash::{Output, ParamsString, PasswordHash, Salt, SaltString};
use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Block, Params, Version};
use sha_crypt::{ROUNDS_DEFAULT, Sha512Params, sha512_crypt_b64};
use subtle::ConstantTimeEq as _;

/// Scheme of new hashes.
const ARGON2ID: &str = "{ARGON2ID}";

/// Scheme of relays that are migrated.
const SHA512_CRYPT: &str = "{SHA512-CRYPT}";

/// Memory in KiB, passes and lanes of new hashes. OWASP's password storage recommendations list five equally strong
/// combinations of memory and passes. This is the one with the least memory: several hashes at once fit into the memory
/// of a small VPS, and into the processor's cache, which also makes it the fastest of the five.
const MEMORY: u32 = 7_168;
const PASSES: u32 = 5;
const LANES: u32 = 1;

/// Maximum memory in KiB and maximum number of passes of a stored hash.
const MAX_MEMORY: u32 = 256 * 1024;
const MAX_PASSES: u32 = 16;

/// Maximum number of rounds of a stored `{SHA512-CRYPT}` hash; crypt(3) uses 5000.
const MAX_ROUNDS: usize = 1_000_000;

/// Length of a `{SHA512-CRYPT}` hash, and maximum length of its salt.
const SHA512_HASH_LENGTH: usize = 86;
const SHA512_SALT_LENGTH: usize = 16;

/// The result of comparing a password with a stored hash.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The password is right.
    Match,
    /// The password is right, but the hash should be replaced by a new one.
    MatchOutdated,
    /// The password is wrong.
    Mismatch,
}

/// Why a password cannot be hashed or verified. The login fails.
#[derive(Debug, thiserror::Error)]
pub enum HashError {
    /// The stored hash has a scheme that neither this relay nor the reference relay writes.
    #[error("a password file has an unknown scheme: {0:?}")]
    Scheme(String),
    /// The stored hash is damaged.
    #[error("a password file is damaged: {0}")]
    Malformed(String),
    /// Hashing failed.
    #[error("cannot hash a password: {0}")]
    Hash(argon2::password_hash::Error),
}

/// The working memory of Argon2. It is reused, because the allocator keeps freed memory: with an allocation per hash,
/// each thread that has ever hashed would keep 7 MiB or more.
#[derive(Debug, Default)]
pub struct Scratch(Vec<Block>);

impl Scratch {
    fn argon2(
        &mut self,
        (version, params): (Version, Params),
        password: &[u8],
        salt: &[u8],
        output: &mut [u8],
    ) -> argon2::Result<()> {
        self.0.resize(params.block_count(), Block::default());
        let result = Argon2::new(Algorithm::Argon2id, version, params).hash_password_into_with_memory(
            password,
            salt,
            output,
            &mut self.0,
        );
        // A stored hash may need more memory than new ones; do not keep it.
        self.0.truncate(MEMORY as usize);
        self.0.shrink_to_fit();
        result
    }
}

fn failed(error: impl Into<argon2::password_hash::Error>) -> HashError {
    HashError::Hash(error.into())
}

/// Hashes a new password.
pub fn hash(password: &[u8], scratch: &mut Scratch) -> Result<String, HashError> {
    let params = Params::new(MEMORY, PASSES, LANES, None).map_err(failed)?;
    let salt_bytes = rand::random::<[u8; 16]>();
    let salt = SaltString::encode_b64(&salt_bytes).map_err(failed)?;
    let mut output = [0; Params::DEFAULT_OUTPUT_LEN];
    scratch
        .argon2(
            (Version::V0x13, params.clone()),
            password,
            &salt_bytes,
            &mut output,
        )
        .map_err(failed)?;
    let hash = PasswordHash {
        algorithm: ARGON2ID_IDENT,
        version: Some(Version::V0x13.into()),
        params: ParamsString::try_from(&params).map_err(failed)?,
        salt: Some(salt.as_salt()),
        hash: Some(Output::new(&output).map_err(failed)?),
    };
    Ok(format!("{ARGON2ID}{hash}"))
}

/// Compares a password with a stored hash in constant time.
pub fn verify(password: &[u8], stored: &str, scratch: &mut Scratch) -> Result<Verdict, HashError> {
    if crate::account::is_banned(stored) {
        Ok(Verdict::Mismatch)
    } else if let Some(hash) = stored.strip_prefix(ARGON2ID) {
        verify_argon2(password, hash, scratch)
    } else if let Some(hash) = stored.strip_prefix(SHA512_CRYPT) {
        verify_sha512_crypt(password, hash)
    } else {
        // Report only the scheme: the rest, or a text without a scheme, may be a password.
        let scheme = stored.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        Err(HashError::Scheme(
            scheme.map_or("none", |(scheme, _)| scheme).to_owned(),
        ))
    }
}

fn verify_argon2(password: &[u8], text: &str, scratch: &mut Scratch) -> Result<Verdict, HashError> {
    let malformed = || HashError::Malformed("not an Argon2id hash".to_owned());
    let hash = PasswordHash::new(text).map_err(|_| malformed())?;
    let params = Params::try_from(&hash).map_err(|_| malformed())?;
    let version = hash
        .version
        .map_or(Ok(Version::V0x10), Version::try_from)
        .map_err(|_| malformed())?;
    let (Some(salt), Some(expected), true) = (hash.salt, hash.hash, hash.algorithm == ARGON2ID_IDENT) else {
        return Err(malformed());
    };
    let (memory, passes) = (params.m_cost(), params.t_cost());
    if memory > MAX_MEMORY || passes > MAX_PASSES {
        return Err(HashError::Malformed(format!(
            "it needs {memory} KiB and {passes} passes"
        )));
    }
    let mut salt_buffer = [0; Salt::MAX_LENGTH];
    let salt = salt.decode_b64(&mut salt_buffer).map_err(|_| malformed())?;
    let mut output = vec![0; expected.len()];
    scratch
        .argon2((version, params), password, salt, &mut output)
        .map_err(|_| malformed())?;
    Ok(if !bool::from(output.ct_eq(expected.as_bytes())) {
        Verdict::Mismatch
    } else if u64::from(memory) * u64::from(passes) < u64::from(MEMORY) * u64::from(PASSES) {
        Verdict::MatchOutdated
    } else {
        Verdict::Match
    })
}

/// `$6$[rounds=N$]SALT$HASH`, see <https://www.akkadia.org/drepper/SHA-crypt.txt>.
fn verify_sha512_crypt(password: &[u8], text: &str) -> Result<Verdict, HashError> {
    let malformed = || HashError::Malformed("not a SHA-512 crypt hash".to_owned());
    let mut rest = text.strip_prefix("$6$").ok_or_else(malformed)?;
    let mut rounds = ROUNDS_DEFAULT;
    if let Some((number, behind)) = rest.strip_prefix("rounds=").and_then(|rest| rest.split_once('$')) {
        rounds = number
            .parse()
            .ok()
            .filter(|rounds| *rounds <= MAX_ROUNDS)
            .ok_or_else(malformed)?;
        rest = behind;
    }
    let (salt, hash) = rest.split_once('$').ok_or_else(malformed)?;
    if salt.len() > SHA512_SALT_LENGTH || hash.len() != SHA512_HASH_LENGTH {
        return Err(malformed());
    }
    let params = Sha512Params::new(rounds).map_err(|_| malformed())?;
    let computed = sha512_crypt_b64(password, salt.as_bytes(), &params).map_err(|_| malformed())?;
    Ok(if computed.as_bytes().ct_eq(hash.as_bytes()).into() {
        Verdict::MatchOutdated
    } else {
        Verdict::Mismatch
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    // From `doveadm pw -s SHA512-CRYPT -p correcthorse`, with and without `-r 1000`.
    const CRYPT: &str = include_str!("../testdata/sha512-crypt");
    const CRYPT_ROUNDS: &str = include_str!("../testdata/sha512-crypt-rounds");
    // From `doveadm pw -s ARGON2ID -p correcthorse`.
    const DOVEADM_ARGON2ID: &str = include_str!("../testdata/argon2id");

    fn hash(password: &str) -> Result<String, HashError> {
        super::hash(password.as_bytes(), &mut Scratch::default())
    }

    fn verify(password: &str, stored: &str) -> Result<Verdict, HashError> {
        super::verify(password.as_bytes(), stored, &mut Scratch::default())
    }

    #[test]
    fn memory_is_reused_and_does_not_grow() {
        let mut scratch = Scratch::default();
        let stored = super::hash(b"correcthorse", &mut scratch).unwrap();
        let memory = scratch.0.as_ptr();
        assert_eq!(
            super::verify(b"correcthorse", &stored, &mut scratch).unwrap(),
            Verdict::Match
        );
        assert_eq!(scratch.0.as_ptr(), memory);
        super::verify(b"correcthorse", DOVEADM_ARGON2ID.trim_end(), &mut scratch).unwrap();
        assert_eq!(scratch.0.capacity(), MEMORY as usize);
        assert_eq!(
            super::verify(b"correcthorse", &stored, &mut scratch).unwrap(),
            Verdict::Match
        );
    }

    #[test]
    fn new_hashes_verify() {
        let stored = hash("correcthorse").unwrap();
        assert!(
            stored.starts_with("{ARGON2ID}$argon2id$v=19$m=7168,t=5,p=1$"),
            "{stored}"
        );
        assert_eq!(verify("correcthorse", &stored).unwrap(), Verdict::Match);
        assert_eq!(verify("correcthors", &stored).unwrap(), Verdict::Mismatch);
        assert_eq!(verify("", &stored).unwrap(), Verdict::Mismatch);
        assert_ne!(hash("correcthorse").unwrap(), stored, "salted");
    }

    #[test]
    fn a_ban_makes_every_password_wrong() {
        let stored = format!("!{}", hash("correcthorse").unwrap());
        for password in ["correcthorse", "", "!"] {
            assert_eq!(verify(password, &stored).unwrap(), Verdict::Mismatch);
        }
    }

    #[test]
    fn hashes_of_dovecot_verify() {
        for (stored, right) in [
            (CRYPT, Verdict::MatchOutdated),
            (CRYPT_ROUNDS, Verdict::MatchOutdated),
            (DOVEADM_ARGON2ID, Verdict::Match),
        ] {
            assert_eq!(
                verify("correcthorse", stored.trim_end()).unwrap(),
                right,
                "{stored}"
            );
            assert_eq!(
                verify("Correcthorse", stored.trim_end()).unwrap(),
                Verdict::Mismatch
            );
        }
    }

    #[test]
    fn nothing_else_lets_anybody_in_and_no_error_shows_a_password() {
        for stored in [
            "secret",
            "{PLAIN}secret",
            "{CLEARTEXT}secret",
            "{SHA512-CRYPT}secret",
            "{SHA512-CRYPT}",
            "{ARGON2ID}secret",
            "{ARGON2ID}",
            "",
            "{",
        ] {
            let error = verify("secret", stored).unwrap_err().to_string();
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn a_stored_hash_cannot_ask_for_endless_work() {
        let greedy = DOVEADM_ARGON2ID.replace("m=65536", "m=4000000");
        assert!(matches!(
            verify("x", greedy.trim_end()),
            Err(HashError::Malformed(_))
        ));
        let slow = DOVEADM_ARGON2ID.replace("t=3", "t=100000");
        assert!(matches!(
            verify("x", slow.trim_end()),
            Err(HashError::Malformed(_))
        ));
        let slow = CRYPT_ROUNDS.replace("rounds=1000", "rounds=999999999");
        assert!(matches!(
            verify("x", slow.trim_end()),
            Err(HashError::Malformed(_))
        ));
    }

    proptest! {
        #[test]
        fn any_stored_text_is_survived(stored in "(\\{(ARGON2ID|SHA512-CRYPT)\\})?(\\$6\\$)?(rounds=[0-9]{0,3}\\$)?.{0,100}") {
            prop_assert!(!matches!(verify("x", &stored), Ok(Verdict::Match | Verdict::MatchOutdated)));
        }
    }
}
