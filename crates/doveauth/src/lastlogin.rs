//! The dict of Dovecot's `last_login` plugin: keys `shared/last-login/ADDRESS`, values in Unix seconds.

use std::time::{Duration, SystemTime};

use chatmail_core::Address;
use chatmail_core::account::MailStore;
use dovecot_dict::{Commit, Dict, Failure, Operation, Transaction};

use crate::metrics;

const PREFIX: &str = "shared/last-login/";

/// Stores the day of each login in the account, see `Account::set_last_login`.
#[derive(Debug, Clone)]
pub struct LastLogins {
    store: MailStore,
}

impl LastLogins {
    /// Stores the days of logins to the accounts in `store`.
    pub fn new(store: MailStore) -> Self {
        Self { store }
    }
}

impl Dict for LastLogins {
    /// Nothing reads the day through Dovecot.
    async fn lookup(&self, _user: &str, _key: &str) -> Result<Option<Vec<u8>>, Failure> {
        Ok(None)
    }

    async fn commit(&self, transaction: Transaction) -> Result<Commit, Failure> {
        let store = self.store.clone();
        tokio::task::spawn_blocking(move || {
            for operation in &transaction.operations {
                if let Operation::Set { key, value } = operation
                    && let Some((address, login)) = parse(key, value)?
                {
                    let stored = store.account(&address).set_last_login(login);
                    metrics::last_login(stored.is_ok());
                    stored
                        .map_err(|error| Failure::new(format!("cannot store the day of a login: {error}")))?;
                }
            }
            Ok(Commit::Done)
        })
        .await
        .map_err(|error| Failure::new(error.to_string()))?
    }
}

/// Parses the login in a key and its value; none for other keys and for names that are not addresses, such as those of
/// administrators.
fn parse(key: &str, value: &[u8]) -> Result<Option<(Address, SystemTime)>, Failure> {
    let Some(Ok(address)) = key.strip_prefix(PREFIX).map(Address::parse) else {
        return Ok(None);
    };
    let login = std::str::from_utf8(value)
        .ok()
        .and_then(|text| text.parse().ok())
        .and_then(|seconds| SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds)))
        .ok_or_else(|| Failure::new("the time of a login is not a number of seconds"))?;
    Ok(Some((address, login)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(key: &str, value: &str) -> Transaction {
        Transaction {
            operations: vec![Operation::Set {
                key: key.to_owned(),
                value: value.as_bytes().to_owned(),
            }],
            ..Transaction::default()
        }
    }

    #[tokio::test]
    async fn stores_the_day_of_accounts_and_ignores_the_rest() {
        let dir = tempfile::tempdir().unwrap();
        let store = MailStore::new(dir.path());
        let account = store.account(&Address::parse("abcdefghi@chat.example.org").unwrap());
        account.create("x").unwrap();
        let dict = LastLogins::new(store);
        let key = "shared/last-login/abcdefghi@chat.example.org";
        assert_eq!(dict.commit(set(key, "1795551790")).await, Ok(Commit::Done));
        let day = SystemTime::UNIX_EPOCH + Duration::from_secs(1_795_478_400);
        assert_eq!(account.last_login().unwrap(), Some(day));

        for (key, value) in [
            ("shared/last-login/root", "1795651790"),
            ("shared/last-login/../x@chat.example.org", "1795651790"),
            ("shared/other/abcdefghi@chat.example.org", "1795651790"),
            ("shared/last-login/nobody123@chat.example.org", "1795651790"),
        ] {
            assert_eq!(dict.commit(set(key, value)).await, Ok(Commit::Done), "{key}");
        }
        assert_eq!(account.last_login().unwrap(), Some(day));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);

        for value in ["", "-1", "now", "99999999999999999999"] {
            assert!(dict.commit(set(key, value)).await.is_err(), "{value}");
        }
        assert_eq!(dict.lookup("", key).await, Ok(None));
    }
}
