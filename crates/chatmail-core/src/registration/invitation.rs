//! Invitations and their tokens.

use std::fmt;

use rand::{CryptoRng, seq::IndexedRandom as _};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::denied::Denied;

/// Number of characters of a token: 131 bits.
pub const TOKEN_LENGTH: usize = 22;

/// Characters of a token: those that links and passwords contain unescaped.
const CHARACTERS: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789";

/// Number of digits of an ID that people see.
const SHORT: usize = 8;

/// A secret that lets its holders create accounts.
///
/// Deliberately without `Debug` and `Display`, so that none reaches a log.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

/// The SHA-256 hash of a token in hexadecimal. It names the invitation without revealing the token, and finding an
/// invitation by it takes no comparison with a secret.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Id(String);

/// The right to create a number of accounts until a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Invitation {
    /// Unix time at which it was created.
    pub created: u64,
    /// Unix time from which it is worthless.
    pub expires: u64,
    /// Number of accounts that it is for.
    pub uses: u32,
    /// Number of accounts that were created, including `pending`.
    pub used: u32,
    /// Address of the account that is being created. After a crash, it shows whether that use counts.
    pub pending: Option<String>,
    /// What the operator wrote about it.
    pub note: Option<String>,
}

/// What an invitation is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Accounts can be created.
    Valid,
    /// Its time is over.
    Expired,
    /// All of its accounts were created.
    UsedUp,
}

impl Token {
    /// Generates a token.
    pub fn generate(random: &mut impl CryptoRng) -> Self {
        let characters = (0..TOKEN_LENGTH).filter_map(|_| CHARACTERS.choose(random));
        Self(characters.map(|&byte| char::from(byte)).collect())
    }

    /// Parses a token; none if the text cannot be one.
    pub fn parse(text: &str) -> Option<Self> {
        let right = text.len() == TOKEN_LENGTH && text.bytes().all(|byte| byte.is_ascii_alphanumeric());
        right.then(|| Self(text.to_owned()))
    }

    /// Splits a password into the token at its beginning and the rest; none if it does not begin with one.
    pub fn split(password: &[u8]) -> Option<(Self, &[u8])> {
        let (token, rest) = password.split_at_checked(TOKEN_LENGTH)?;
        Some((Self::parse(std::str::from_utf8(token).ok()?)?, rest))
    }

    /// The token in plain text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The ID of its invitation.
    pub fn id(&self) -> Id {
        let digest = Sha256::digest(self.0.as_bytes());
        Id(digest.iter().map(|byte| format!("{byte:02x}")).collect())
    }
}

impl Id {
    /// Parses the name of a file.
    pub(super) fn parse(name: &str) -> Option<Self> {
        let hexadecimal = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (name.len() == 64 && name.bytes().all(hexadecimal)).then(|| Self(name.to_owned()))
    }

    /// The whole ID.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The beginning, which is enough to tell invitations apart.
impl fmt::Display for Id {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.0.get(..SHORT).unwrap_or(&self.0))
    }
}

impl Invitation {
    /// An unused invitation for this number of accounts; the times are seconds of Unix time.
    pub fn new(created: u64, expires: u64, uses: u32) -> Self {
        Self {
            created,
            expires,
            uses,
            used: 0,
            pending: None,
            note: None,
        }
    }

    /// What it is worth at this Unix time.
    pub fn state(&self, now: u64) -> State {
        if self.used >= self.uses {
            State::UsedUp
        } else if now >= self.expires {
            State::Expired
        } else {
            State::Valid
        }
    }

    /// Whether an account can be created now.
    pub fn check(&self, now: u64) -> Result<(), Denied> {
        match self.state(now) {
            State::Valid => Ok(()),
            State::Expired => Err(Denied::Expired),
            State::UsedUp => Err(Denied::UsedUp),
        }
    }

    /// Number of accounts that it is still for, if it is valid.
    pub fn left(&self, now: u64) -> u32 {
        match self.state(now) {
            State::Valid => self.uses.saturating_sub(self.used),
            State::Expired | State::UsedUp => 0,
        }
    }

    /// Counts the creation of an account, which is about to begin.
    pub(super) fn begin(&mut self, address: &str) {
        self.used = self.used.saturating_add(1);
        self.pending = Some(address.to_owned());
    }

    /// Ends a creation: it only counts if the account exists.
    pub(super) fn settle(&mut self, exists: impl FnOnce(&str) -> bool) {
        if let Some(address) = self.pending.take()
            && !exists(&address)
        {
            self.used = self.used.saturating_sub(1);
        }
    }
}
