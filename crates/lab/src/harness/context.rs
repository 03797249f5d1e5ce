//! What scenarios share: the relays, the clients, and two pairs of people who know each other.

use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use tokio::sync::OnceCell;

use crate::client::deltachat::{Program, User};
use crate::client::iroh::Peers;
use crate::client::{Account, Peer, iroh, outside};
use crate::machine::Lab;
use crate::topology::Topology;

/// How often a condition is looked at that nothing announces.
const POLL: Duration = Duration::from_millis(50);

/// How often relays are asked to try again at once.
const HURRY: Duration = Duration::from_secs(5);

/// Two people who have verified each other.
pub(crate) struct Pair {
    /// Who scanned the code.
    pub(crate) one: User,
    /// Whose code it was.
    pub(crate) other: User,
    /// Their chat, as `one` numbers it.
    pub(crate) one_chat: u32,
    /// Their chat, as `other` numbers it.
    pub(crate) other_chat: u32,
}

/// Everything that a scenario works with.
pub(crate) struct Context {
    /// Where the relays are.
    pub(crate) topology: Topology,
    machines: Option<Lab>,
    cache: PathBuf,
    program: OnceCell<Program>,
    across: OnceCell<Pair>,
    local: OnceCell<Pair>,
    iroh: OnceCell<Peers>,
    iroh_relay: OnceCell<()>,
    zones: OnceCell<()>,
}

impl Context {
    /// Relays of a lab, or relays that run elsewhere. `cache` is where client programs are kept.
    pub(crate) fn new(topology: Topology, machines: Option<Lab>, cache: PathBuf) -> Self {
        Self {
            topology,
            machines,
            cache,
            program: OnceCell::new(),
            across: OnceCell::new(),
            local: OnceCell::new(),
            iroh: OnceCell::new(),
            iroh_relay: OnceCell::new(),
            zones: OnceCell::new(),
        }
    }

    /// The machines that the relays run on.
    pub(crate) fn machines(&self) -> anyhow::Result<&Lab> {
        self.machines.as_ref().context("this needs the machines of a lab")
    }

    /// Gives the machines back, to be ended. Ends the clients.
    pub(crate) fn into_machines(self) -> Option<Lab> {
        self.machines
    }

    /// A relay as clients reach it.
    pub(crate) fn peer(&self, relay: &str) -> anyhow::Result<Peer> {
        Peer::of(&self.topology, relay)
    }

    /// Where pictures of pages are kept.
    pub(crate) fn pictures(&self) -> PathBuf {
        self.cache.join("browser")
    }

    /// A new account on a relay, which the relay knows of already.
    pub(crate) async fn account(&self, relay: &str) -> anyhow::Result<Account> {
        let account = Account::random(&self.peer(relay)?);
        account.imap().await.context("signing up")?;
        Ok(account)
    }

    /// Runs a command in a machine; its output, or an error that quotes it.
    pub(crate) async fn run(&self, relay: &str, argv: &[&str]) -> anyhow::Result<String> {
        let output = self.machines()?.exec(relay, argv).await?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "`{}` on relay {relay} ended with {}: {}{stdout}",
            argv.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(stdout)
    }

    /// Delta Chat.
    pub(crate) async fn program(&self) -> anyhow::Result<&Program> {
        let resolver = self.topology.resolver.into();
        self.program
            .get_or_try_init(|| Program::prepare(&self.cache, resolver))
            .await
    }

    /// Starts the iroh relay on the relays: those of a lab run without it until a scenario needs it.
    pub(crate) async fn iroh_relay(&self) -> anyhow::Result<()> {
        let start = || async {
            match &self.machines {
                Some(machines) => machines.iroh_relay().await,
                None => Ok(()),
            }
        };
        self.iroh_relay.get_or_try_init(start).await?;
        Ok(())
    }

    /// Two iroh endpoints.
    pub(crate) async fn iroh(&self) -> anyhow::Result<&Peers> {
        self.iroh.get_or_try_init(|| iroh::prepare(&self.cache)).await
    }

    /// Two people on relays a and b.
    pub(crate) async fn across(&self) -> anyhow::Result<&Pair> {
        self.across.get_or_try_init(|| self.pair("a", "b")).await
    }

    /// Two people on relay a.
    pub(crate) async fn local(&self) -> anyhow::Result<&Pair> {
        self.local.get_or_try_init(|| self.pair("a", "a")).await
    }

    async fn pair(&self, one: &str, other: &str) -> anyhow::Result<Pair> {
        let program = self.program().await?;
        let (one, other) = (self.peer(one)?, self.peer(other)?);
        let (one, other) = tokio::try_join!(
            program.user("alice", &one.domain),
            program.user("bob", &other.domain)
        )?;
        let (one_chat, other_chat) = one.secure_join(&other).await?;
        Ok(Pair {
            one,
            other,
            one_chat,
            other_chat,
        })
    }

    /// Makes the domains outside of the lab known to its resolver.
    pub(crate) async fn publish_outside(&self) -> anyhow::Result<()> {
        let publish = || async {
            for (zone, text) in outside::zones(self.topology.host.into())? {
                self.machines()?.publish(zone, &text).await?;
            }
            anyhow::Ok(())
        };
        self.zones.get_or_try_init(publish).await?;
        Ok(())
    }

    /// Waits until no relay has mail under way.
    pub(crate) async fn queues_empty(&self, relays: &[&str], within: Duration) -> anyhow::Result<()> {
        for relay in relays {
            let empty = || async {
                let queue = self.machines()?.queue(relay).await?;
                Ok(queue.is_empty().then_some(()))
            };
            until(within, empty)
                .await
                .with_context(|| format!("the queue of relay {relay} does not become empty"))?;
        }
        Ok(())
    }
}

/// Mail that one relay did not get rid of waits there for minutes; asking for it at once changes nothing else.
pub(crate) async fn hurried<T>(
    context: &Context,
    relays: &[&str],
    arrive: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let hurry = async {
        loop {
            tokio::time::sleep(HURRY).await;
            for relay in relays {
                context.run(relay, &["postqueue", "-f"]).await?;
            }
        }
    };
    tokio::select! {
        arrived = arrive => arrived,
        failed = hurry => failed,
    }
}

/// Looks again and again until `look` finds something: for conditions that nothing announces.
pub(crate) async fn until<T, F>(within: Duration, look: impl Fn() -> F) -> anyhow::Result<T>
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
