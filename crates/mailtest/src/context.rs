//! What scenarios share: the relays, Delta Chat, and two pairs of people who know each other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use tokio::sync::OnceCell;

use crate::client::deltachat::{Pair, Program};
use crate::client::{Account, Peer};
use crate::scenario::{Environment, Needs};
use crate::topology::Topology;

/// How often a condition is looked at that nothing announces.
const POLL: Duration = Duration::from_millis(50);

/// Everything that a scenario works with.
pub struct Context {
    /// Where the relays are.
    pub topology: Topology,
    cache: PathBuf,
    program: OnceCell<Program>,
    across: OnceCell<Pair>,
    local: OnceCell<Pair>,
}

impl Context {
    /// Relays, and where client programs are kept.
    pub fn new(topology: Topology, cache: PathBuf) -> Self {
        Self {
            topology,
            cache,
            program: OnceCell::new(),
            across: OnceCell::new(),
            local: OnceCell::new(),
        }
    }

    /// A relay as clients reach it.
    pub fn peer(&self, relay: &str) -> anyhow::Result<Peer> {
        Peer::of(&self.topology, relay)
    }

    /// A new account on a relay, which the relay knows of already.
    pub async fn account(&self, relay: &str) -> anyhow::Result<Account> {
        let account = Account::random(&self.peer(relay)?);
        account.imap().await.context("signing up")?;
        Ok(account)
    }

    /// Delta Chat.
    pub async fn program(&self) -> anyhow::Result<&Program> {
        let resolver = self.topology.resolver.into();
        self.program
            .get_or_try_init(|| Program::prepare(&self.cache, resolver))
            .await
    }

    /// Two people on relays a and b.
    pub async fn across(&self) -> anyhow::Result<&Pair> {
        self.across.get_or_try_init(|| self.pair("a", "b")).await
    }

    /// Two people on relay a.
    pub async fn local(&self) -> anyhow::Result<&Pair> {
        self.local.get_or_try_init(|| self.pair("a", "a")).await
    }

    async fn pair(&self, one: &str, other: &str) -> anyhow::Result<Pair> {
        let program = self.program().await?;
        let (one, other) = (self.peer(one)?, self.peer(other)?);
        let (one, other) = tokio::try_join!(
            program.user("alice", &one.domain),
            program.user("bob", &other.domain)
        )?;
        Pair::verify(one, other).await
    }
}

impl AsRef<Context> for Context {
    fn as_ref(&self) -> &Context {
        self
    }
}

/// Relays that run elsewhere: what is not there cannot be provided, and their logs are out of reach.
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

/// Looks again and again until `look` finds something: for conditions that nothing announces.
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
            bail!("not within {within:?}");
        }
        tokio::time::sleep(POLL).await;
    }
}
