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
/// Shorter than the time after which Postfix tries again (`minimal_backoff_time`).
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

    /// Makes the relay forget what it knows about the other. Postfix, too, must not use a connection from before: scache(8)
    /// keeps it.
    async fn forget(&self, context: &Context) -> anyhow::Result<()> {
        let script = "pkill --exact scache; systemctl restart filtermail-transport.service";
        context.run(self.from, &["sh", "-c", script]).await?;
        Ok(())
    }

    /// Opens a connection over HTTPS, of a relay that knows nothing about the other.
    async fn connect(&self, context: &Context) -> anyhow::Result<()> {
        self.forget(context).await?;
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

/// A relay that knows nothing about the other tries once. With an open connection, that one fails soon, then a new one,
/// and then the relay no longer tries.
pub(super) async fn port_443(context: &Context) -> anyhow::Result<()> {
    let ways = ways(context).await?;
    for directions in FIREWALLS {
        for way in &ways {
            let dropped = directions.contains(&way.direction);
            for connected in [false, true] {
                if connected {
                    way.connect(context).await?;
                } else {
                    way.forget(context).await?;
                }
                let _firewall = Firewall::drop_packets(RELAY, 443, directions)?;
                let tried = match (dropped, connected) {
                    (false, _) => 0,
                    (true, false) => 1,
                    (true, true) => 2,
                };
                for attempt in 0..=tried {
                    let what = format!(
                        "from relay {}, connected before: {connected}, {directions:?} dropped, message {attempt}",
                        way.from
                    );
                    let expected = match (dropped, attempt) {
                        (false, _) => (1.0, 0.0),
                        (true, attempt) if attempt < tried => (0.0, 1.0),
                        (true, _) => (0.0, 0.0),
                    };
                    check(context, way, &what, expected).await?;
                }
            }
        }
    }
    for way in &ways {
        way.connect(context).await?;
    }
    Ok(())
}

/// Delivers a message, with this many successful and failed attempts over HTTPS.
async fn check(context: &Context, way: &Way, what: &str, expected: (f64, f64)) -> anyhow::Result<()> {
    let (sent, failed) = (
        way.attempts(context, "delivered").await?,
        way.attempts(context, "failed").await?,
    );
    let took = way.deliver().await.with_context(|| what.to_owned())?;
    println!("    {what}: {took:?}");
    let sent = way.attempts(context, "delivered").await? - sent;
    let failed = way.attempts(context, "failed").await? - failed;
    ensure!(
        (sent, failed) == expected,
        "{what}: {sent} delivered over HTTPS and {failed} failed, not {expected:?}"
    );
    Ok(())
}
