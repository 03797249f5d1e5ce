//! Decides which accounts are created, and counts them.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use chatmail_core::account::MailStore;
use chatmail_core::address::{AddressError, Asker};
use chatmail_core::limits::Resources;
use chatmail_core::registration::{Denied, Locked, Register, Token};
use chatmail_core::{Address, Settings, unix_seconds};
use tokio::sync::Mutex;

use crate::files::{blocking, when_locked};

/// Why a new account is rejected. The texts are log lines, some of which mtail counts.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refusal {
    #[error(transparent)]
    Denied(#[from] Denied),
    #[error(transparent)]
    Address(#[from] AddressError),
    #[error("Password is not UTF-8")]
    PasswordText,
    #[error("{0}")]
    Exhausted(String),
}

/// The rules for new accounts.
#[derive(Debug)]
pub(crate) struct Registrar {
    settings: Arc<Settings>,
    store: MailStore,
    register: Register,
    /// Serializes the creations that the registration counts. [`Register::try_lock`] excludes other processes; a task
    /// that waits here does not have to poll.
    one_at_a_time: Arc<Mutex<()>>,
}

impl Refusal {
    /// Value of the label `reason` in the metrics.
    pub(crate) fn reason(&self) -> &'static str {
        match self {
            Self::Denied(denied) => denied.label(),
            Self::Address(_) | Self::PasswordText => "address",
            Self::Exhausted(_) => "resources",
        }
    }
}

impl Registrar {
    pub(crate) fn new(settings: Arc<Settings>) -> Self {
        Self {
            store: MailStore::new(&settings.mailboxes.directory),
            register: Register::new(&settings.registration),
            one_at_a_time: Arc::default(),
            settings,
        }
    }

    /// Checks whether an account with this password can be created now.
    pub(crate) async fn check(&self, address: &Address, password: &[u8]) -> io::Result<Result<(), Refusal>> {
        let (token, secret) = self.split(password);
        let (register, directory) = (self.register.clone(), self.store.dir().to_owned());
        let (allowed, resources) = blocking(move || {
            let allowed = register.check(token.as_ref(), unix_seconds(SystemTime::now()))?;
            Ok((allowed, Resources::read(&directory)))
        })
        .await?;
        Ok(self.judge(address, secret, allowed, &resources))
    }

    fn judge(
        &self,
        address: &Address,
        secret: &[u8],
        allowed: Result<(), Denied>,
        resources: &Resources,
    ) -> Result<(), Refusal> {
        allowed?;
        let rules = &self.settings.accounts;
        let secret = std::str::from_utf8(secret).map_err(|_| Refusal::PasswordText)?;
        address.check_new(&self.settings.domain, secret, rules, Asker::Anybody)?;
        match resources.exhausted(rules) {
            Some(exhausted) => Err(Refusal::Exhausted(exhausted.to_string())),
            None => Ok(()),
        }
    }

    /// The token of an invitation at the beginning of a password, and the rest. Others know the token too, so the rest
    /// has to satisfy the rules for passwords.
    fn split<'a>(&self, password: &'a [u8]) -> (Option<Token>, &'a [u8]) {
        match Token::split(password) {
            Some((token, rest)) if self.register.by_invitation() => (Some(token), rest),
            _ => (None, password),
        }
    }

    /// Runs `create`, and counts the account. What the registration allows may have changed since [`Self::check`].
    pub(crate) async fn create(
        &self,
        address: &Address,
        password: &[u8],
        create: impl FnOnce() -> io::Result<()> + Send + 'static,
    ) -> io::Result<Result<(), Refusal>> {
        if !self.register.counts() {
            return Ok(Ok(blocking(create).await?));
        }
        let (token, _) = self.split(password);
        let within = Arc::clone(&self.one_at_a_time).lock_owned().await;
        let between = self.lock().await?;
        let (store, address) = (self.store.clone(), address.clone());
        let created = blocking(move || {
            // Held until the end, even if the caller is cancelled.
            let _within = within;
            let exists = |address: &str| exists(&store, address);
            between.create(
                token.as_ref(),
                address.as_str(),
                unix_seconds(SystemTime::now()),
                exists,
                create,
            )
        });
        Ok(created.await?.map_err(Refusal::from))
    }

    /// Settles the uses of invitations that a crash interrupted.
    pub(crate) async fn recover(&self) -> io::Result<()> {
        if !self.register.by_invitation() {
            return Ok(());
        }
        let locked = self.lock().await?;
        let store = self.store.clone();
        blocking(move || locked.recover(|address| exists(&store, address))).await
    }

    async fn lock(&self) -> io::Result<Locked> {
        let register = self.register.clone();
        when_locked(move || register.try_lock()).await
    }
}

/// Whether there is an account. One that cannot be read exists.
fn exists(store: &MailStore, address: &str) -> bool {
    Address::parse(address).is_ok_and(|address| {
        let hash = store.account(&address).password_hash();
        hash.map_or(true, |hash| hash.is_some())
    })
}
