//! What scenarios share: the machines, and what all scenarios do with them.

use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::outside;
use mailtest::{Environment, Needs, until};
use tokio::sync::OnceCell;

use crate::machine::{Cursor, Lab};

/// How often relays are asked to try again at once.
const HURRY: Duration = Duration::from_secs(5);

/// Lines of each relay's journal that are shown with a failure.
const JOURNAL_LINES: usize = 40;

/// Everything that a scenario works with: what clients know, and the machines that the relays run on.
pub(crate) struct Context {
    outer: mailtest::Context,
    machines: Lab,
    cache: PathBuf,
    iroh_relay: OnceCell<()>,
    zones: OnceCell<()>,
}

impl Context {
    /// The relays of a lab. `cache` is where programs and pictures are kept.
    pub(crate) fn new(machines: Lab, cache: PathBuf) -> Self {
        Self {
            outer: mailtest::Context::new(machines.topology().clone(), cache.clone()),
            machines,
            cache,
            iroh_relay: OnceCell::new(),
            zones: OnceCell::new(),
        }
    }

    /// The machines that the relays run on.
    pub(crate) fn machines(&self) -> &Lab {
        &self.machines
    }

    /// Gives the machines back, to be ended. Ends the clients.
    pub(crate) fn into_machines(self) -> Lab {
        self.machines
    }

    /// Where programs are kept that take long to build.
    pub(crate) fn cache(&self) -> &Path {
        &self.cache
    }

    /// Where pictures of pages are kept.
    pub(crate) fn pictures(&self) -> PathBuf {
        self.cache.join("browser")
    }

    /// Runs a command in a machine; its output, or an error that quotes it.
    pub(crate) async fn run(&self, relay: &str, argv: &[&str]) -> anyhow::Result<String> {
        let output = self.machines.exec(relay, argv).await?;
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

    /// Makes the domains outside of the lab known to its resolver.
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

    /// Waits until no relay has mail under way.
    pub(crate) async fn queues_empty(&self, relays: &[&str], within: Duration) -> anyhow::Result<()> {
        for relay in relays {
            let empty = || async {
                let queue = self.machines.queue(relay).await?;
                Ok(queue.is_empty().then_some(()))
            };
            until(within, empty)
                .await
                .with_context(|| format!("the queue of relay {relay} does not become empty"))?;
        }
        Ok(())
    }
}

/// What clients know is in reach of every scenario.
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
