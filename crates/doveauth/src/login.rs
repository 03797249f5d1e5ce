//! Verifies logins, and creates accounts at their first login.

use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use chatmail_core::Address;
use chatmail_core::account::{Account, AccountLock, MailStore};
use chatmail_core::password::{self, HashError, Verdict};
use chatmail_core::settings::Settings;
use tokio::sync::OnceCell;
use zeroize::Zeroizing;

use crate::files::{blocking, when_locked};
use crate::hasher::{Busy, Hasher, Lane, Place};
use crate::locks::{self, Locks};
use crate::metrics;
use crate::registrar::{Refusal, Registrar};
use crate::verified::VerifiedLogins;

/// Maximum duration of a login, including the waits for a lock and for a hash. Dovecot's Lua script and Postfix wait a
/// little longer, and the client much longer.
pub const DEADLINE: Duration = Duration::from_secs(5);

/// Maximum number of passwords hashed at once, however many processors there are: each takes 7 MiB.
const MAX_PARALLEL: usize = 8;

/// Maximum length of a password in bytes. The time of some schemes of migrated relays grows with its square.
const MAX_PASSWORD: usize = 1024;

/// Number of wrong logins to remember, so that a client that repeats one costs only one hash.
const REMEMBERED_WRONG: usize = 10_000;

/// Minimum time between two log lines about logins that failed because too many were waiting.
const BUSY_LINE: Duration = Duration::from_secs(60);

/// Number of verified logins to remember, about 20 MB.
const REMEMBERED: usize = 250_000;

/// A password as received: any bytes.
pub type Password = Arc<Zeroizing<Vec<u8>>>;

/// The reply to Dovecot or Postfix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// The account exists, or was just created, and the password is right.
    Ok,
    /// The password is wrong, or the account may not be created.
    Mismatch,
    /// The password could not be verified; the client should retry.
    Tempfail,
}

impl Outcome {
    /// Value of the label `result` in the metrics.
    fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Mismatch => "mismatch",
            Self::Tempfail => "tempfail",
        }
    }
}

/// Why a login fails temporarily.
#[derive(Debug, thiserror::Error)]
enum LoginError {
    #[error(transparent)]
    Busy(#[from] Busy),
    #[error(transparent)]
    Hash(#[from] HashError),
    #[error("cannot read or write an account: {0}")]
    Io(#[from] io::Error),
}

/// The accounts of a relay as a login sees them.
#[derive(Debug)]
pub struct Logins {
    store: MailStore,
    registrar: Registrar,
    right: VerifiedLogins,
    wrong: VerifiedLogins,
    hasher: Hasher,
    locks: Locks,
    busy_since: Mutex<Option<Instant>>,
    /// The hash of an empty password; comparing with it takes as long as with the hash of an account.
    dummy: OnceCell<Arc<str>>,
}

/// An account with the right to create it or to replace its hash.
struct Locked {
    account: Account,
    _between_processes: AccountLock,
    _within_this_one: locks::Guard,
}

impl Logins {
    /// Logins to the accounts of the relay with these settings.
    pub fn new(settings: Arc<Settings>) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, |all| all.get().min(MAX_PARALLEL));
        Self {
            store: MailStore::new(&settings.mailboxes.directory),
            registrar: Registrar::new(Arc::clone(&settings)),
            right: VerifiedLogins::new(REMEMBERED),
            wrong: VerifiedLogins::new(REMEMBERED_WRONG),
            hasher: Hasher::new(processors, settings.doveauth.max_hashing),
            locks: Locks::default(),
            busy_since: Mutex::default(),
            dummy: OnceCell::new(),
        }
    }

    /// Verifies a login, and creates the account if it does not exist and may be created.
    pub async fn login(&self, user: &str, password: Password) -> Outcome {
        let outcome = self.judge(user, password).await;
        metrics::login(outcome.name());
        outcome
    }

    async fn judge(&self, user: &str, password: Password) -> Outcome {
        let address = match Address::parse(user) {
            Ok(address) => address,
            Err(error) => {
                tracing::warn!("{error}");
                return Outcome::Mismatch;
            }
        };
        if password.len() > MAX_PASSWORD {
            tracing::warn!("login rejected: the password is longer than {MAX_PASSWORD} bytes");
            return Outcome::Mismatch;
        }
        let result = tokio::time::timeout(DEADLINE, self.login_address(&address, &password)).await;
        match result {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(LoginError::Busy(busy))) => {
                self.warn_busy(busy);
                Outcome::Tempfail
            }
            Ok(Err(error)) => {
                tracing::error!("{error}");
                tracing::debug!("the login was to {address}");
                Outcome::Tempfail
            }
            Err(_) => {
                tracing::warn!("a login took longer than {} s", DEADLINE.as_secs());
                Outcome::Tempfail
            }
        }
    }

    /// Logs that logins fail because too many are waiting, but not for every one of them.
    fn warn_busy(&self, busy: Busy) {
        let mut since = self.busy_since.lock().unwrap_or_else(PoisonError::into_inner);
        if since.is_none_or(|since| since.elapsed() >= BUSY_LINE) {
            *since = Some(Instant::now());
            tracing::warn!("{busy}; this is not logged again for {} s", BUSY_LINE.as_secs());
        }
    }

    /// Settles the uses of invitations that a crash interrupted.
    pub async fn recover(&self) -> io::Result<()> {
        tokio::time::timeout(DEADLINE, self.registrar.recover()).await?
    }

    /// Addresses of all accounts, one per line.
    pub async fn addresses(&self) -> io::Result<String> {
        let store = self.store.clone();
        blocking(move || {
            let mut lines = String::new();
            for address in store.addresses()? {
                if store.account(&address).last_login()?.is_some() {
                    lines.push_str(address.as_str());
                    lines.push('\n');
                }
            }
            Ok(lines)
        })
        .await
    }

    async fn login_address(&self, address: &Address, password: &Password) -> Result<Outcome, LoginError> {
        let account = self.store.account(address);
        if let Some(stored) = read_hash(&account).await? {
            return self.verify(address, &account, password, stored).await;
        }
        // Before any file is created.
        let place = self.hasher.admit(Lane::New)?;
        if let Err(refusal) = self.registrar.check(address, password).await? {
            self.pretend(address, password, place).await?;
            return Ok(refuse(&refusal));
        }
        let locked = self.lock(address, account).await?;
        if let Some(stored) = read_hash(&locked.account).await? {
            // Another login has created the account meanwhile.
            let account = locked.account.clone();
            drop((locked, place));
            return self.verify(address, &account, password, stored).await;
        }
        let stored = self.hash(password, place).await?;
        let proof = self.right.proof(address, password, &stored);
        let created = address.clone();
        let create = move || {
            locked.account.create(&stored)?;
            // Logged here, because the caller may have been cancelled.
            tracing::info!("Created address: {created}");
            metrics::created();
            Ok(())
        };
        if let Err(refusal) = self.registrar.create(address, password, create).await? {
            return Ok(refuse(&refusal));
        }
        self.right.remember(proof);
        Ok(Outcome::Ok)
    }

    /// Takes as long as a wrong password, so that the time does not reveal whether an account exists.
    async fn pretend(&self, address: &Address, password: &Password, place: Place) -> Result<(), LoginError> {
        let dummy = self
            .dummy
            .get_or_try_init(|| async {
                let place = self.hasher.admit(Lane::New)?;
                let hash = self.hash(&Arc::default(), place).await?;
                Ok::<_, LoginError>(Arc::from(hash))
            })
            .await?;
        let proof = self.wrong.proof(address, password, dummy);
        if !self.wrong.knows(proof) {
            self.compare(password, dummy, place).await?;
            self.wrong.remember(proof);
        }
        Ok(())
    }

    async fn compare(
        &self,
        password: &Password,
        stored: &Arc<str>,
        place: Place,
    ) -> Result<Verdict, LoginError> {
        let (password, stored) = (Arc::clone(password), Arc::clone(stored));
        Ok(self
            .hasher
            .run(place, move |scratch| {
                password::verify(&password, &stored, scratch)
            })
            .await??)
    }

    async fn verify(
        &self,
        address: &Address,
        account: &Account,
        password: &Password,
        stored: String,
    ) -> Result<Outcome, LoginError> {
        let proof = self.right.proof(address, password, &stored);
        if self.right.knows(proof) {
            metrics::remembered();
            return Ok(Outcome::Ok);
        }
        let wrong = self.wrong.proof(address, password, &stored);
        if self.wrong.knows(wrong) {
            return Ok(Outcome::Mismatch);
        }
        let stored: Arc<str> = stored.into();
        match self
            .compare(password, &stored, self.hasher.admit(Lane::Known)?)
            .await?
        {
            Verdict::Match => self.right.remember(proof),
            Verdict::Mismatch => {
                self.wrong.remember(wrong);
                return Ok(Outcome::Mismatch);
            }
            // The password is right, even if the hash cannot be replaced now.
            Verdict::MatchOutdated => match self.replace(address, account, password, stored).await {
                Ok(()) => tracing::debug!("replaced the password hash of {address}"),
                Err(error) => tracing::warn!("cannot replace a password hash: {error}"),
            },
        }
        Ok(Outcome::Ok)
    }

    /// Replaces the hash that the password was compared with, unless it has changed meanwhile.
    async fn replace(
        &self,
        address: &Address,
        account: &Account,
        password: &Password,
        outdated: Arc<str>,
    ) -> Result<(), LoginError> {
        let locked = self.lock(address, account.clone()).await?;
        let stored = self.hash(password, self.hasher.admit(Lane::Known)?).await?;
        let proof = self.right.proof(address, password, &stored);
        blocking(move || {
            if locked.account.password_hash()?.as_deref() == Some(&*outdated) {
                locked.account.set_password_hash(&stored)?;
            }
            Ok(())
        })
        .await?;
        // Never matches if another hash is stored.
        self.right.remember(proof);
        Ok(())
    }

    async fn hash(&self, password: &Password, place: Place) -> Result<String, LoginError> {
        let password = Arc::clone(password);
        Ok(self
            .hasher
            .run(place, move |scratch| password::hash(&password, scratch))
            .await??)
    }

    async fn lock(&self, address: &Address, account: Account) -> io::Result<Locked> {
        let within = self.locks.acquire(address).await;
        let tried = account.clone();
        let between = when_locked(move || tried.try_lock()).await?;
        Ok(Locked {
            account,
            _between_processes: between,
            _within_this_one: within,
        })
    }
}

/// Logs and counts that no account is created.
fn refuse(refusal: &Refusal) -> Outcome {
    tracing::warn!("{refusal}");
    metrics::refused(refusal.reason());
    Outcome::Mismatch
}

async fn read_hash(account: &Account) -> io::Result<Option<String>> {
    let account = account.clone();
    blocking(move || account.password_hash()).await
}
