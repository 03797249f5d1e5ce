//! Time-limited credentials for a TURN server, as coturn's `use-auth-secret` checks them
//! (draft-uberti-behave-turn-rest-00 section 2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha1::Sha1;

/// The Unix time at which the credentials expire that an account gets at `now`: between a fifth of `lifetime` and the
/// whole `lifetime` later.
///
/// coturn counts allocations per user name, which is only this number. An account therefore gets the same number for
/// four fifths of `lifetime`, has at most two valid ones, and shares them with few other accounts. Without the secret,
/// nobody can tell which numbers belong to an account.
///
/// None if HMAC does not accept a key of that length, which does not happen with SHA-1.
pub fn expiry(secret: &[u8], account: &str, now: u64, lifetime: u64) -> Option<u64> {
    let least = lifetime / 5;
    let period = lifetime.saturating_sub(least).max(1);
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).ok()?;
    mac.update(b"account\0");
    mac.update(account.as_bytes());
    let hash = mac.finalize().into_bytes();
    let own = hash
        .iter()
        .take(8)
        .fold(0, |sum: u64, byte| sum << 8 | u64::from(*byte))
        % period;
    let earliest = now.saturating_add(least);
    let within = earliest % period;
    let until_own = own.checked_sub(within).unwrap_or(period - within + own);
    Some(earliest.saturating_add(until_own))
}

/// The credentials for clients: `host:port:username:password`, where the user name is the Unix time at which they
/// expire.
///
/// None if HMAC does not accept a key of that length, which does not happen with SHA-1.
pub fn credentials(host: &str, port: u16, secret: &[u8], expires: u64) -> Option<String> {
    let username = expires.to_string();
    let mut mac = Hmac::<Sha1>::new_from_slice(secret).ok()?;
    mac.update(username.as_bytes());
    let password = STANDARD.encode(mac.finalize().into_bytes());
    Some(format!("{host}:{port}:{username}:{password}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The password is what `printf 1700000000 | openssl dgst -sha1 -hmac north -binary | base64` prints.
    #[test]
    fn password_is_base64_of_the_mac_of_the_user_name() {
        assert_eq!(
            credentials("turn.example.org", 3478, b"north", 1_700_000_000).unwrap(),
            "turn.example.org:3478:1700000000:CWyHi3zCeWqXBir9thl4m+iZPRY="
        );
    }

    #[test]
    fn an_account_has_few_user_names_and_each_is_valid_long_enough() {
        const LIFETIME: u64 = 432_000;
        let at = |account: &str, now| expiry(b"north", account, now, LIFETIME).unwrap();
        let mut all = std::collections::HashSet::new();
        for number in 0..100 {
            let account = format!("user{number}@chat.example.org");
            let mut names = std::collections::BTreeSet::new();
            for now in (1_700_000_000..1_700_000_000 + 10 * LIFETIME).step_by(3_599) {
                let expires = at(&account, now);
                assert!(expires >= now + LIFETIME / 5 && expires < now + LIFETIME);
                names.insert(expires);
                let valid = names.iter().filter(|expires| **expires > now).count();
                assert!(valid <= 2, "{valid} at {now}");
            }
            // One per four fifths of the lifetime.
            assert!(names.len() <= 14, "{}", names.len());
            all.insert(at(&account, 1_700_000_000));
        }
        assert!(all.len() >= 99, "{} of 100", all.len());
        assert_ne!(
            expiry(b"north", "a@b", 0, LIFETIME),
            expiry(b"south", "a@b", 0, LIFETIME)
        );
    }

    #[test]
    fn any_lifetime_gives_an_expiry() {
        for lifetime in [0, 1, 2, 4, 5, 6, u64::MAX] {
            for now in [0, 1_700_000_000, u64::MAX] {
                let expires = expiry(b"north", "a@b", now, lifetime).unwrap();
                assert!(expires >= now.saturating_add(lifetime / 5), "{now} {lifetime}");
                assert!(expires <= now.saturating_add(lifetime), "{now} {lifetime}");
            }
        }
    }

    #[test]
    fn another_secret_or_time_gives_another_password() {
        let password = |secret: &[u8], expires| {
            let all = credentials("h", 1, secret, expires).unwrap();
            all.rsplit(':').next().unwrap().to_owned()
        };
        assert_ne!(password(b"a", 1), password(b"b", 1));
        assert_ne!(password(b"a", 1), password(b"a", 2));
        // Longer than a block of SHA-1.
        assert_ne!(password(&[b'a'; 65], 1), password(&[b'a'; 64], 1));
    }
}
