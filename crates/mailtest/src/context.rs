//! State that scenarios share: the relays, Delta Chat, and two pairs of users who have verified each other.

use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::OnceCell;

use crate::client::deltachat::{Pair, Program};
use crate::client::{Account, Peer};
use crate::scenario::{Environment, Needs};
use crate::topology::Topology;

/// Polling interval for conditions that no event announces.
const POLL: Duration = Duration::from_millis(50);

/// The environment of a scenario.
pub struct Context {
    /// Addresses of the relays.
    pub topology: Topology,
    cache: PathBuf,
    program: OnceCell<Program>,
    across: OnceCell<Pair>,
    local: OnceCell<Pair>,
    /// Whose turn it is among given accounts.
    turn: AtomicUsize,
}

impl Context {
    /// Creates a context for these relays; `cache` is the directory for client programs.
    pub fn new(topology: Topology, cache: PathBuf) -> Self {
        Self {
            topology,
            cache,
            program: OnceCell::new(),
            across: OnceCell::new(),
            local: OnceCell::new(),
            turn: AtomicUsize::new(0),
        }
    }

    /// Returns the relay with this name, with the TLS settings of a client.
    pub fn peer(&self, relay: &str) -> anyhow::Result<Peer> {
        Peer::of(&self.topology, relay)
    }

    /// Creates a new account on a relay; the first login registers it. If accounts are given, they take turns instead:
    /// two in a row are different if there are two.
    pub async fn account(&self, relay: &str) -> anyhow::Result<Account> {
        let peer = self.peer(relay)?;
        if let Some(existing) = self.existing(&peer) {
            return Ok(existing);
        }
        let account = Account::random(&peer);
        account.imap().await.context("signing up")?;
        Ok(account)
    }

    fn existing(&self, peer: &Peer) -> Option<Account> {
        peer.existing(self.turn.fetch_add(1, Ordering::Relaxed))
    }

    /// What Delta Chat scans to get an account on a relay.
    fn code(&self, relay: &str) -> anyhow::Result<String> {
        let peer = self.peer(relay)?;
        Ok(self
            .existing(&peer)
            .map_or_else(|| peer.code(), |account| account.link()))
    }

    /// Delta Chat.
    pub async fn program(&self) -> anyhow::Result<&Program> {
        let resolver = self.topology.resolver.into();
        self.program
            .get_or_try_init(|| Program::prepare(&self.cache, resolver))
            .await
    }

    /// Two users, on relays a and b.
    pub async fn across(&self) -> anyhow::Result<&Pair> {
        self.across.get_or_try_init(|| self.pair("a", "b")).await
    }

    /// Two users on relay a.
    pub async fn local(&self) -> anyhow::Result<&Pair> {
        self.local.get_or_try_init(|| self.pair("a", "a")).await
    }

    async fn pair(&self, one: &str, other: &str) -> anyhow::Result<Pair> {
        let program = self.program().await?;
        let (one_code, other_code) = (self.code(one)?, self.code(other)?);
        let (one, other) = tokio::try_join!(
            program.user_of_code("alice", &one_code),
            program.user_of_code("bob", &other_code)
        )?;
        Pair::verify(one, other).await
    }
}

impl AsRef<Context> for Context {
    fn as_ref(&self) -> &Context {
        self
    }
}

/// Relays that run elsewhere: a scenario cannot change them or read their logs.
impl Environment for Context {
    type Moment = ();

    async fn provide(&self, _: Needs) -> anyhow::Result<()> {
        Ok(())
    }

    async fn now(&self) {}

    async fn logged_since(&self, (): &()) -> Vec<String> {
        Vec::new()
    }
}

/// Polls `look` until it returns a value: for conditions that no event announces.
pub async fn until<T, F>(within: Duration, look: impl Fn() -> F) -> anyhow::Result<T>
where
    F: Future<Output = anyhow::Result<Option<T>>>,
{
    let end = Instant::now() + within;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        if Instant::now() > end {
            bail!("timed out after {within:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}
