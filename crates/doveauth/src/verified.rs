//! Logins that were verified before.
//!
//! When ten thousand clients reconnect at once, ten thousand Argon2 hashes would keep a small machine busy for minutes.
//! A login that was verified once is recognised as long as its password file contains the same hash.

use std::collections::HashSet;
use std::sync::{Mutex, PoisonError};

use chatmail_core::Address;
use hmac::{Hmac, Mac};
use sha2::Sha256;

/// Identifies an address, a password and a stored hash without revealing any of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Proof([u8; 32]);

/// Proofs of verified logins, in memory only and worthless to any other process.
///
/// Remembers between `capacity / 2` and `capacity` of the most recently used ones: when the younger half is full, the
/// older half is dropped.
#[derive(Debug)]
pub struct VerifiedLogins {
    keyed: Hmac<Sha256>,
    halves: Mutex<Halves>,
    half: usize,
}

#[derive(Debug, Default)]
struct Halves {
    young: HashSet<Proof>,
    old: HashSet<Proof>,
}

impl VerifiedLogins {
    /// Remembers up to `capacity` logins (about 40 bytes each), with a new key.
    pub fn new(capacity: usize) -> Self {
        Self {
            // As long as a block of SHA-256, so that HMAC (RFC 2104 section 3) uses it unchanged.
            keyed: Mac::new(&rand::random::<[u8; 64]>().into()),
            halves: Mutex::default(),
            half: capacity.div_ceil(2),
        }
    }

    /// The proof of a login, to be passed to [`Self::remember`] once the login is verified. `stored` is the current
    /// content of the password file.
    pub fn proof(&self, address: &Address, password: &[u8], stored: &str) -> Proof {
        let mut mac = self.keyed.clone();
        for part in [address.as_str().as_bytes(), password, stored.as_bytes()] {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        Proof(mac.finalize().into_bytes().into())
    }

    /// Remembers a verified login.
    pub fn remember(&self, proof: Proof) {
        self.halves
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(proof, self.half);
    }

    /// Whether this login was verified before.
    pub fn knows(&self, proof: Proof) -> bool {
        let mut halves = self.halves.lock().unwrap_or_else(PoisonError::into_inner);
        if halves.young.contains(&proof) {
            return true;
        }
        let known = halves.old.contains(&proof);
        if known {
            halves.insert(proof, self.half);
        }
        known
    }
}

impl Halves {
    fn insert(&mut self, proof: Proof, half: usize) {
        if self.young.len() >= half {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(proof);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn address() -> Address {
        Address::parse("abcdefghi@chat.example.org").unwrap()
    }

    #[test]
    fn only_the_same_password_and_hash_are_known() {
        let logins = VerifiedLogins::new(10);
        let proof = logins.proof(&address(), b"correcthorse", "{ARGON2ID}x");
        assert!(!logins.knows(proof));
        logins.remember(proof);
        assert!(logins.knows(proof));
        assert!(!logins.knows(logins.proof(&address(), b"correcthorse", "{ARGON2ID}y")));
        assert!(!logins.knows(logins.proof(&address(), b"correcthorsf", "{ARGON2ID}x")));
        assert!(!logins.knows(logins.proof(&address(), b"correcthorse{", "ARGON2ID}x")));
        assert_ne!(
            proof,
            VerifiedLogins::new(10).proof(&address(), b"correcthorse", "{ARGON2ID}x"),
            "every process has another key"
        );
    }

    proptest! {
        #[test]
        fn the_last_used_are_kept_and_the_number_is_bounded(uses in prop::collection::vec(0_u8..60, 0..400)) {
            let logins = VerifiedLogins::new(20);
            for name in &uses {
                let proof = logins.proof(&address(), name.to_string().as_bytes(), "");
                if !logins.knows(proof) {
                    logins.remember(proof);
                }
            }
            let mut last: Vec<_> = Vec::new();
            for name in uses.iter().rev() {
                if !last.contains(name) {
                    last.push(*name);
                }
            }
            for name in last.iter().take(10) {
                prop_assert!(logins.knows(logins.proof(&address(), name.to_string().as_bytes(), "")));
            }
            let halves = logins.halves.lock().unwrap();
            prop_assert!(halves.young.len() + halves.old.len() <= 20);
        }
    }
}
