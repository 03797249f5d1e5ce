//! The response for a new user: an address, a password and, on a self-signed relay, a link that accepts its
//! certificate.

use chatmail_core::generate::{localpart, password};
use chatmail_core::registration::Token;
use chatmail_core::settings::{Settings, TlsMode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use rand::CryptoRng;
use serde::Serialize;

/// All characters except those that a link contains unescaped (RFC 3986 section 2.3) and the `@` of the address.
const ADDRESS_IN_LINK: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'@')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// An account that the first login creates. Clients ignore unknown keys.
///
/// Deliberately without `Debug`, so that no password reaches the log.
#[derive(Serialize)]
pub(crate) struct NewAccount {
    /// The address.
    pub(crate) email: String,
    /// The password in plain text.
    pub(crate) password: String,
    /// `dclogin:` link that lets clients accept the relay's own certificate; only on self-signed relays.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) dclogin_url: Option<String>,
}

impl NewAccount {
    /// Generates an account from a cryptographic random source. The token of an invitation is a part of the password, so
    /// that doveauth finds it in the first login.
    pub(crate) fn generate(settings: &Settings, token: Option<&Token>, random: &mut impl CryptoRng) -> Self {
        let email = format!("{}@{}", localpart(&settings.accounts, random), settings.domain);
        let token = token.map_or("", Token::as_str);
        let password = format!("{token}{}", password(&settings.accounts, random));
        let dclogin_url = (settings.tls.mode == TlsMode::SelfSigned)
            .then(|| dclogin_url(&email, &password, &settings.domain));
        Self {
            email,
            password,
            dclogin_url,
        }
    }
}

/// Builds a link in which `ic=3` accepts any certificate. An address literal has no name to look up, so the link
/// contains the hosts.
fn dclogin_url(email: &str, password: &str, domain: &str) -> String {
    let email = utf8_percent_encode(email, ADDRESS_IN_LINK);
    let password = utf8_percent_encode(password, NON_ALPHANUMERIC);
    let hosts = match literal(domain) {
        Some(ip) => {
            let ip = utf8_percent_encode(ip, ADDRESS_IN_LINK);
            format!("&ih={ip}&sh={ip}")
        }
        None => String::new(),
    };
    format!("dclogin:{email}?p={password}&v=1{hosts}&ic=3")
}

/// The IP address in an address literal (RFC 5321 section 4.1.3).
fn literal(domain: &str) -> Option<&str> {
    let inner = domain.strip_prefix('[')?.strip_suffix(']')?;
    Some(inner.strip_prefix("IPv6:").unwrap_or(inner))
}

#[cfg(test)]
mod tests {
    use super::*;
    use chatmail_core::Address;
    use chatmail_core::address::Asker;
    use chatmail_core::generate::LOCALPART;
    use proptest::prelude::*;
    use rand::{SeedableRng as _, rngs::StdRng};

    fn settings(mode: TlsMode, domain: &str) -> Settings {
        let text = include_str!("../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(text, std::path::Path::new("sample")).unwrap();
        settings.tls.mode = mode;
        settings.domain = domain.to_owned();
        settings
    }

    /// Reads a link as clients do: path up to `?`, then pairs, everything percent-decoded.
    fn read(link: &str) -> (String, Vec<(String, String)>) {
        let decode = |text: &str| {
            percent_encoding::percent_decode_str(text)
                .decode_utf8()
                .unwrap()
                .into_owned()
        };
        let (address, query) = link.strip_prefix("dclogin:").unwrap().split_once('?').unwrap();
        let pairs = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap())
            .map(|(key, value)| (key.to_owned(), decode(value)))
            .collect();
        (decode(address), pairs)
    }

    #[test]
    fn only_self_signed_relays_need_a_link() {
        for (mode, expected) in [
            (TlsMode::Acme, false),
            (TlsMode::External, false),
            (TlsMode::SelfSigned, true),
        ] {
            let account = NewAccount::generate(&settings(mode, "_a.test"), None, &mut rand::rng());
            assert_eq!(account.dclogin_url.is_some(), expected, "{mode:?}");
        }
    }

    #[test]
    fn links_quote_what_a_query_would_misread() {
        assert_eq!(
            dclogin_url("ab-c.d_e9@_a.test", r##"a+b&c=%d#e/f?"'"##, "_a.test"),
            "dclogin:ab-c.d_e9@_a.test?p=a%2Bb%26c%3D%25d%23e%2Ff%3F%22%27&v=1&ic=3"
        );
        assert_eq!(
            dclogin_url("abc@[192.0.2.1]", "secret", "[192.0.2.1]"),
            "dclogin:abc@%5B192.0.2.1%5D?p=secret&v=1&ih=192.0.2.1&sh=192.0.2.1&ic=3"
        );
        assert_eq!(
            dclogin_url("abc@[IPv6:2001:db8::1]", "secret", "[IPv6:2001:db8::1]"),
            "dclogin:abc@%5BIPv6%3A2001%3Adb8%3A%3A1%5D?p=secret&v=1&ih=2001%3Adb8%3A%3A1&sh=2001%3Adb8%3A%3A1&ic=3"
        );
    }

    proptest! {
        #[test]
        fn accounts_satisfy_the_rules_they_will_be_checked_against(
            seed: u64,
            min in 1usize..=64,
            extra in 0usize..=63,
            password_min in 0usize..=200,
        ) {
            let mut settings = settings(TlsMode::SelfSigned, "_a.test");
            let rules = &mut settings.accounts;
            rules.username_min_length = min;
            rules.username_max_length = (min + extra).min(64);
            rules.password_min_length = password_min;
            let account = NewAccount::generate(&settings, None, &mut StdRng::seed_from_u64(seed));

            let address = Address::parse(&account.email).unwrap();
            let checked =
                address.check_new("_a.test", &account.password, &settings.accounts, Asker::Anybody);
            prop_assert_eq!(checked, Ok(()));
            prop_assert_eq!(address.localpart().len(), settings.accounts.username_max_length);
            prop_assert!(address.localpart().bytes().all(|byte| LOCALPART.contains(&byte)));

            let (link_address, pairs) = read(&account.dclogin_url.unwrap());
            prop_assert_eq!(link_address, account.email);
            prop_assert_eq!(&pairs, &[
                ("p".to_owned(), account.password),
                ("v".to_owned(), "1".to_owned()),
                ("ic".to_owned(), "3".to_owned()),
            ]);
        }
    }
}
