//! State that scenarios share: the machines, and operations on them.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::outside;
use mailtest::topology::Topology;
use mailtest::{Environment, Needs, until};
use tokio::sync::OnceCell;

use crate::machine::{Cursor, Lab};

/// Interval between requests to the relays to retry deferred mail.
const HURRY: Duration = Duration::from_secs(5);

/// Number of lines of each relay's journal that the report of a failure shows.
const JOURNAL_LINES: usize = 40;

/// The environment of a scenario: that of clients, and the machines on which the relays run.
pub(crate) struct Context {
    outer: mailtest::Context,
    machines: Lab,
    cache: PathBuf,
    iroh_relay: OnceCell<()>,
    zones: OnceCell<()>,
}

impl Context {
    /// Creates a context for the relays of a lab. `cache` is the directory for programs and screenshots.
    pub(crate) fn new(machines: Lab, cache: PathBuf) -> Self {
        let topology = machines.topology().clone();
        Self::within(machines, topology, cache)
    }

    /// The same for clients that know the relays by other addresses.
    pub(crate) fn within(machines: Lab, topology: Topology, cache: PathBuf) -> Self {
        Self {
            outer: mailtest::Context::new(topology, cache.clone()),
            machines,
            cache,
            iroh_relay: OnceCell::new(),
            zones: OnceCell::new(),
        }
    }

    /// Returns the machines on which the relays run.
    pub(crate) fn machines(&self) -> &Lab {
        &self.machines
    }

    /// Stops the clients and returns the machines, so that the caller can stop them.
    pub(crate) fn into_machines(self) -> Lab {
        self.machines
    }

    /// Directory for programs that take long to build.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Directory for screenshots of pages.
    pub(crate) fn pictures(&self) -> PathBuf {
        self.cache.join("browser")
    }

    /// Runs a command in a machine; returns its output, or an error that quotes it.
    pub(crate) async fn run(&self, relay: &str, argv: &[&str]) -> anyhow::Result<String> {
        let output = self.machines.exec(relay, argv).await?;
        let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
        ensure!(
            output.status.success(),
            "`{}` on relay {relay} failed with {}: {}{stdout}",
            argv.join(" "),
            output.status,
            String::from_utf8_lossy(&output.stderr)
        );
        Ok(stdout)
    }

    /// Publishes the zones of the outside domains in the lab's DNS.
    pub(crate) async fn publish_outside(&self) -> anyhow::Result<()> {
        let publish = || async {
            for (zone, text) in outside::zones(self.topology.host.into())? {
                self.machines.publish(zone, &text).await?;
            }
            anyhow::Ok(())
        };
        self.zones.get_or_try_init(publish).await?;
        Ok(())
    }

    /// Waits until the queues of these relays are empty. Looks at all of them twice in a row: a message can move to a
    /// relay whose queue was empty a moment before.
    pub(crate) async fn queues_empty(&self, relays: &[&str], within: Duration) -> anyhow::Result<()> {
        let empty = || async {
            for relay in relays.iter().chain(relays) {
                if !self.machines.queue(relay).await?.is_empty() {
                    return Ok(None);
                }
            }
            Ok(Some(()))
        };
        until(within, empty)
            .await
            .with_context(|| format!("the queues of relays {} do not become empty", relays.join(", ")))
    }
}

/// Every scenario can also use the environment of clients.
impl Deref for Context {
    type Target = mailtest::Context;

    fn deref(&self) -> &mailtest::Context {
        &self.outer
    }
}

impl AsRef<mailtest::Context> for Context {
    fn as_ref(&self) -> &mailtest::Context {
        &self.outer
    }
}

impl AsRef<Context> for Context {
    fn as_ref(&self) -> &Context {
        self
    }
}

impl Environment for Context {
    type Moment = Vec<(String, Cursor)>;

    async fn provide(&self, needs: Needs) -> anyhow::Result<()> {
        if needs == Needs::IrohRelay {
            self.iroh_relay
                .get_or_try_init(|| self.machines.iroh_relay())
                .await?;
        }
        Ok(())
    }

    async fn now(&self) -> Self::Moment {
        let mut cursors = Vec::new();
        for relay in &self.topology.relays {
            if let Ok(cursor) = self.machines.cursor(&relay.name).await {
                cursors.push((relay.name.clone(), cursor));
            }
        }
        cursors
    }

    async fn logged_since(&self, moment: &Self::Moment) -> Vec<String> {
        let mut all = Vec::new();
        for (relay, cursor) in moment {
            let lines = match self.machines.journal(relay, None, cursor).await {
                Ok(lines) => lines,
                Err(error) => vec![format!("{error:#}")],
            };
            let last = lines.iter().skip(lines.len().saturating_sub(JOURNAL_LINES));
            all.extend(last.map(|line| format!("{relay} | {line}")));
        }
        all
    }
}

/// Makes relays retry deferred mail immediately, which they would otherwise retry after minutes.
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
