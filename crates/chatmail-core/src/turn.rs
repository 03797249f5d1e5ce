//! Time-limited credentials for a TURN server, as coturn's `use-auth-secret` checks them
//! (draft-uberti-behave-turn-rest-00 section 2.2).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, Mac as _};
use sha1::Sha1;

/// What a client gets to know: `host:port:username:password`, where the user name is the Unix time at which the
/// credentials expire.
///
/// None if HMAC takes no key of that length, which does not happen with SHA-1.
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
