//! Local parts and passwords for new accounts.

use rand::{CryptoRng, Rng as _, seq::IndexedRandom as _};

use crate::roles::is_role;
use crate::settings::Accounts;

/// Characters of a generated local part: those that are easy to read aloud.
pub const LOCALPART: &[u8] = b"abcdefghijklmnopqrstuvwxyz0123456789";

/// Length of a generated password beyond the minimum, as on the reference relay.
const PASSWORD_EXTRA: usize = 3;

/// Printable ASCII without the space: letters, digits and punctuation.
const PASSWORD: std::ops::RangeInclusive<char> = '!'..='~';

/// Generates a random local part of the maximum length that is not that of a role.
pub fn localpart(rules: &Accounts, random: &mut impl CryptoRng) -> String {
    loop {
        let drawn: String = (0..rules.username_max_length)
            .filter_map(|_| LOCALPART.choose(random))
            .map(|&byte| char::from(byte))
            .collect();
        if !is_role(&drawn) {
            return drawn;
        }
    }
}

/// Generates a random password that is allowed for new accounts.
pub fn password(rules: &Accounts, random: &mut impl CryptoRng) -> String {
    (0..rules.password_min_length + PASSWORD_EXTRA)
        .map(|_| random.random_range(PASSWORD))
        .collect()
}
