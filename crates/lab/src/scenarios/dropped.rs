//! A firewall drops all packets to one port of a relay, or from it, and answers none: mail travels over the other port.
//!
//! A connection to such a port only times out, and one that was open before never ends by itself.

use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::{Account, arrival, pgp};

use super::Context;
use super::metrics::Samples;
use crate::machine::Direction::{self, Incoming, Outgoing};
use crate::machine::Firewall;

/// The relay behind the firewall, and another one; the metrics of both are on loopback.
const RELAY: &str = "b";
const OTHER: &str = "d";
/// Firewalls that drop packets in one direction, or in both.
const FIREWALLS: [&[Direction]; 3] = [&[Incoming], &[Outgoing], &[Incoming, Outgoing]];
/// Shorter than the time that Postfix waits for a connection (`smtp_connect_timeout`, 30 s).
const WITHIN: Duration = Duration::from_secs(20);

/// A way from one relay to the other.
struct Way {
    from: &'static str,
    /// Direction of its packets at [`RELAY`].
    direction: Direction,
    sender: Account,
    receiver: Account,
}

async fn ways(context: &Context) -> anyhow::Result<[Way; 2]> {
    let (here, there) = (context.account(RELAY).await?, context.account(OTHER).await?);
    Ok([
        Way {
            from: RELAY,
            direction: Outgoing,
            sender: here.clone(),
            receiver: there.clone(),
        },
        Way {
            from: OTHER,
            direction: Incoming,
            sender: there,
            receiver: here,
        },
    ])
}

impl Way {
    /// Sends a message, and returns after how long it has arrived.
    async fn deliver(&self) -> anyhow::Result<Duration> {
        let (mut imap, _) = self.receiver.inbox().await?;
        let message = pgp::encrypted(&self.sender.address, 2000);
        let begin = Instant::now();
        self.sender
            .submit(&self.receiver.address, &message)
            .await?
            .expect(250)?;
        arrival(&mut imap, message.id(), WITHIN).await?;
        Ok(begin.elapsed())
    }

    /// Number of attempts over HTTPS with this result.
    async fn attempts(&self, context: &Context, result: &str) -> anyhow::Result<f64> {
        let url = "http://127.0.0.1:3912/metrics";
        let text = context.run(self.from, &["curl", "-sSf", url]).await?;
        Samples::parse(&text)?
            .sum(
                &["chatmail_https_deliveries_total"],
                &format!("result=\"{result}\""),
            )
            .with_context(|| format!("relay {} has no counter of {result} attempts", self.from))
    }

    /// Opens a connection over HTTPS, of a relay that knows nothing about the other.
    async fn connect(&self, context: &Context) -> anyhow::Result<()> {
        let unit = "filtermail-transport.service";
        context.run(self.from, &["systemctl", "restart", unit]).await?;
        let before = self.attempts(context, "delivered").await?;
        self.deliver().await?;
        ensure!(
            self.attempts(context, "delivered").await? > before,
            "relay {} does not deliver over HTTPS",
            self.from
        );
        Ok(())
    }
}

pub(super) async fn port_25(context: &Context) -> anyhow::Result<()> {
    let ways = ways(context).await?;
    for directions in FIREWALLS {
        let _firewall = Firewall::drop_packets(RELAY, 25, directions)?;
        for way in &ways {
            let took = way.deliver().await;
            let took = took.with_context(|| format!("from relay {}, {directions:?} dropped", way.from))?;
            println!("    from {}, {directions:?} dropped: {took:?}", way.from);
        }
    }
    Ok(())
}

/// The open connection fails soon, then a new one, and then the relay no longer tries.
pub(super) async fn port_443(context: &Context) -> anyhow::Result<()> {
    let ways = ways(context).await?;
    for directions in FIREWALLS {
        for way in &ways {
            way.connect(context).await?;
            let firewall = Firewall::drop_packets(RELAY, 443, directions)?;
            let dropped = directions.contains(&way.direction);
            for attempt in if dropped { 1..=3 } else { 1..=1 } {
                let what = format!(
                    "from relay {}, {directions:?} dropped, message {attempt}",
                    way.from
                );
                let (sent, failed) = (
                    way.attempts(context, "delivered").await?,
                    way.attempts(context, "failed").await?,
                );
                let took = way.deliver().await.context(what.clone())?;
                println!("    {what}: {took:?}");
                let sent = way.attempts(context, "delivered").await? - sent;
                let failed = way.attempts(context, "failed").await? - failed;
                let expected = match (dropped, attempt) {
                    (false, _) => (1.0, 0.0),
                    (true, 3) => (0.0, 0.0),
                    (true, _) => (0.0, 1.0),
                };
                ensure!(
                    (sent, failed) == expected,
                    "{what}: {sent} delivered over HTTPS and {failed} failed, not {expected:?}"
                );
            }
            drop(firewall);
        }
    }
    for way in &ways {
        way.connect(context).await?;
    }
    Ok(())
}
