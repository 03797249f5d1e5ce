//! Mail addresses, and the narrower grammar of the addresses of a relay.

use std::fmt;

use crate::grammar::{MAX_LOCALPART, is_domain};
use crate::roles::is_role;
use crate::settings::Accounts;

/// An address `localpart@domain` with a lower-case domain, safe as the name of a folder.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Address {
    text: String,
    at: usize,
}

/// Why a new address is rejected. The texts are log lines of the reference relay.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AddressError {
    /// There is no `@` or more than one, or a character is not allowed in addresses of this relay.
    #[error("not an address of the form localpart@domain")]
    Malformed,
    /// The domain is not that of the relay.
    #[error("address belongs to another domain")]
    ForeignDomain,
    /// The local part is too short or too long.
    #[error("localpart {localpart} has to be between {min} and {max} chars long")]
    LocalpartLength {
        /// The rejected local part.
        localpart: String,
        /// Minimum length.
        min: usize,
        /// Maximum length.
        max: usize,
    },
    /// The local part contains characters other than `a-z0-9._-`.
    #[error("localpart '{0}' contains invalid characters")]
    LocalpartCharacters(String),
    /// The local part is not a dot-atom (RFC 5322 section 3.2.3), so Postfix and most mail servers reject its mail.
    // Without the local part: unlike the texts above, no program matches this line, and logs name nobody.
    #[error("localpart begins or ends with a dot, or has two in a row")]
    LocalpartDots,
    /// The local part is that of a role, which only the operator can create.
    #[error("localpart '{0}' is reserved for the operator")]
    LocalpartReserved(String),
    /// The password of a new account is too short.
    #[error("Password needs to be at least {0} characters long")]
    PasswordLength(usize),
}

/// Who asks for a new account.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asker {
    /// A client that logs in for the first time.
    Anybody,
    /// The operator of the relay, who can also create the address of a role, of any length.
    Operator,
}

impl Address {
    /// Parses an address. Rejects everything that is not safe as the name of a folder: empty parts, `/`, control
    /// characters, white space, a second `@`, and parts that are longer than RFC 5321 allows.
    pub fn parse(text: &str) -> Result<Self, AddressError> {
        let (localpart, domain) = text.split_once('@').ok_or(AddressError::Malformed)?;
        let plain = |c: char| c.is_ascii_graphic() && !matches!(c, '/' | '\\' | '@' | '"' | '<' | '>');
        if localpart.is_empty()
            || localpart.len() > MAX_LOCALPART
            || localpart.starts_with('.')
            || !localpart.chars().all(plain)
            || !is_domain(domain)
        {
            return Err(AddressError::Malformed);
        }
        Ok(Self {
            text: text.to_owned(),
            at: localpart.len(),
        })
    }

    /// The account that Postfix and Dovecot deliver to for a recipient: in lower case, without the extension after `+`
    /// (`recipient_delimiter`).
    pub fn of_recipient(recipient: &str) -> Result<Self, AddressError> {
        let (localpart, domain) = recipient.rsplit_once('@').ok_or(AddressError::Malformed)?;
        let account = localpart
            .split_once('+')
            .map_or(localpart, |(account, _)| account);
        Self::parse(&format!("{account}@{domain}").to_ascii_lowercase())
    }

    /// Checks that `asker` may create an account with this address and password.
    pub fn check_new(
        &self,
        domain: &str,
        password: &str,
        rules: &Accounts,
        asker: Asker,
    ) -> Result<(), AddressError> {
        if self.domain() != domain {
            return Err(AddressError::ForeignDomain);
        }
        if password.chars().count() < rules.password_min_length {
            return Err(AddressError::PasswordLength(rules.password_min_length));
        }
        let localpart = self.localpart();
        let (min, max) = (rules.username_min_length, rules.username_max_length);
        let role = is_role(localpart);
        let any_length = role && asker == Asker::Operator;
        if !any_length && !(min..=max).contains(&localpart.len()) {
            return Err(AddressError::LocalpartLength {
                localpart: localpart.to_owned(),
                min,
                max,
            });
        }
        let allowed = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '_' | '-');
        if !localpart.chars().all(allowed) {
            return Err(AddressError::LocalpartCharacters(localpart.to_owned()));
        }
        if localpart.split('.').any(str::is_empty) {
            return Err(AddressError::LocalpartDots);
        }
        if role && asker == Asker::Anybody {
            return Err(AddressError::LocalpartReserved(localpart.to_owned()));
        }
        Ok(())
    }

    /// The whole address.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The part before the `@`.
    pub fn localpart(&self) -> &str {
        self.text.split_at(self.at).0
    }

    /// The part after the `@`.
    pub fn domain(&self) -> &str {
        self.text.split_at(self.at + 1).1
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rules() -> Accounts {
        let text = include_str!("../testdata/settings.json");
        crate::Settings::parse(text, std::path::Path::new("sample"))
            .unwrap()
            .accounts
    }

    fn check(address: &str, password: &str) -> Result<(), AddressError> {
        Address::parse(address)?.check_new("chat.example.org", password, &rules(), Asker::Anybody)
    }

    #[test]
    fn new_accounts_follow_the_grammar() {
        let domain = "chat.example.org";
        assert_eq!(check(&format!("abc.d-_09@{domain}"), "123456789"), Ok(()));
        assert_eq!(
            check(&format!("abcdefgh@{domain}"), "123456789")
                .unwrap_err()
                .to_string(),
            "localpart abcdefgh has to be between 9 and 9 chars long"
        );
        assert_eq!(
            check(&format!("ABCdefghi@{domain}"), "123456789")
                .unwrap_err()
                .to_string(),
            "localpart 'ABCdefghi' contains invalid characters"
        );
        assert_eq!(
            check(&format!("abcdefghi@{domain}"), "12345678")
                .unwrap_err()
                .to_string(),
            "Password needs to be at least 9 characters long"
        );
        assert_eq!(
            check("abcdefghi@example.org", "123456789"),
            Err(AddressError::ForeignDomain)
        );
    }

    #[test]
    fn new_addresses_are_dot_atoms() {
        for localpart in ["abcdefgh.", "a.......i", "abc..efgh", "a.b.c.d.."] {
            assert_eq!(
                check(&format!("{localpart}@chat.example.org"), "123456789"),
                Err(AddressError::LocalpartDots),
                "{localpart}"
            );
        }
        assert_eq!(
            check(".abcdefgh@chat.example.org", "123456789"),
            Err(AddressError::Malformed)
        );
    }

    #[test]
    fn roles_are_for_the_operator() {
        let mut rules = rules();
        rules.username_min_length = 1;
        rules.username_max_length = 64;
        let check = |localpart: &str, asker| {
            Address::parse(&format!("{localpart}@chat.example.org"))
                .unwrap()
                .check_new("chat.example.org", "123456789", &rules, asker)
        };
        for localpart in [
            "postmaster",
            "abuse",
            "webmaster",
            "web-master",
            "host.master",
            "mailer-daemon",
            "mailer_daemon",
            "no-reply",
            "root",
            "www-data",
            "double-bounce",
        ] {
            assert_eq!(
                check(localpart, Asker::Anybody),
                Err(AddressError::LocalpartReserved(localpart.to_owned()))
            );
            assert_eq!(check(localpart, Asker::Operator), Ok(()), "{localpart}");
        }
        for localpart in ["webmaster1", "rooty", "a.dmin.b", "xabuse"] {
            assert_eq!(check(localpart, Asker::Anybody), Ok(()), "{localpart}");
        }
        // Nine characters are asked of people, not of roles.
        rules.username_min_length = 9;
        rules.username_max_length = 9;
        let check = |localpart: &str, asker| {
            Address::parse(&format!("{localpart}@chat.example.org"))
                .unwrap()
                .check_new("chat.example.org", "123456789", &rules, asker)
        };
        assert_eq!(check("postmaster", Asker::Operator), Ok(()));
        assert!(matches!(
            check("abcdefgh", Asker::Operator),
            Err(AddressError::LocalpartLength { .. })
        ));
        assert_eq!(
            check("webmaster", Asker::Anybody),
            Err(AddressError::LocalpartReserved("webmaster".to_owned()))
        );
    }

    #[test]
    fn parts_of_an_address() {
        let address = Address::parse("x@[192.0.2.1]").unwrap();
        assert_eq!((address.localpart(), address.domain()), ("x", "[192.0.2.1]"));
        for bad in [
            "",
            "@",
            "a@",
            "@b",
            "a@b@c",
            "../x@b.c",
            "a/b@c",
            "a b@c",
            "a@B.c",
            "a@b..c",
            "a@[1.2.3]",
            "a\n@b",
        ] {
            assert_eq!(Address::parse(bad), Err(AddressError::Malformed), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn an_address_is_one_safe_path_component(text in ".{0,80}") {
            if let Ok(address) = Address::parse(&text) {
                let components: Vec<_> = std::path::Path::new(address.as_str()).components().collect();
                prop_assert_eq!(components.len(), 1);
                prop_assert_eq!(format!("{}@{}", address.localpart(), address.domain()), text);
            }
        }
    }
}
