//! Measures again and again how long a message takes from one relay to another.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use crate::client::{Account, Peer, pgp};

/// Longest wait for a message; after it, the message counts as lost.
const LOST: Duration = Duration::from_secs(60);

/// Bytes of cipher text in a message.
const SIZE: usize = 1000;

/// Maximum number of remembered times. Later ones replace the oldest.
const MAX_TIMES: usize = 100_000;

/// One message that was sent.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Probe {
    /// Its number, from 1.
    pub number: u64,
    /// Seconds until the recipient was notified.
    pub seconds: Option<f64>,
    /// Why it did not arrive.
    pub failure: Option<String>,
}

impl Probe {
    /// One line for a person.
    pub fn text(&self) -> String {
        match (&self.seconds, &self.failure) {
            (Some(seconds), _) => format!("message {}: {seconds:.3} s", self.number),
            (None, failure) => format!(
                "message {}: LOST: {}",
                self.number,
                failure.as_deref().unwrap_or("?")
            ),
        }
    }
}

/// Delivery times of all messages so far.
#[derive(Debug, Default)]
pub struct Times {
    sent: u64,
    arrived: u64,
    seconds: Vec<f64>,
}

/// The same in figures, in seconds.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Summary {
    /// Messages sent.
    pub sent: u64,
    /// Messages that did not arrive.
    pub lost: u64,
    /// The shortest time; null, as all times are, if nothing arrived.
    pub min: Option<f64>,
    /// The arithmetic mean.
    pub mean: Option<f64>,
    /// The time that 99 of 100 messages did not exceed.
    pub p99: Option<f64>,
    /// The longest time.
    pub max: Option<f64>,
}

impl Times {
    /// Counts a message.
    pub fn add(&mut self, probe: &Probe) {
        self.sent += 1;
        let Some(seconds) = probe.seconds else { return };
        let place = usize::try_from(self.arrived).unwrap_or(usize::MAX) % MAX_TIMES;
        match self.seconds.get_mut(place) {
            Some(old) => *old = seconds,
            None => self.seconds.push(seconds),
        }
        self.arrived += 1;
    }

    /// The figures.
    pub fn summary(&self) -> Summary {
        let mut sorted = self.seconds.clone();
        sorted.sort_by(f64::total_cmp);
        let number = sorted.len();
        #[allow(clippy::cast_precision_loss, reason = "far fewer than 2^52")]
        let mean = (number > 0).then(|| sorted.iter().sum::<f64>() / number as f64);
        Summary {
            sent: self.sent,
            lost: self.sent - self.arrived,
            min: sorted.first().copied(),
            mean,
            // Nearest rank.
            p99: sorted.get((number * 99).div_ceil(100).saturating_sub(1)).copied(),
            max: sorted.last().copied(),
        }
    }
}

impl Summary {
    /// Two lines for a person.
    pub fn text(&self) -> String {
        let mut text = format!(
            "{} sent, {} arrived, {} lost",
            self.sent,
            self.sent - self.lost,
            self.lost
        );
        if let (Some(min), Some(mean), Some(p99), Some(max)) = (self.min, self.mean, self.p99, self.max) {
            text.push_str(&format!(
                "\nmin {min:.3} s, mean {mean:.3} s, p99 {p99:.3} s, max {max:.3} s"
            ));
        }
        text
    }
}

/// Two accounts between which messages are sent.
pub struct Pair {
    sender: Account,
    receiver: Account,
}

impl Pair {
    /// Signs up at both relays, or logs in where accounts are given.
    pub async fn sign_up(from: &Peer, to: &Peer) -> anyhow::Result<Self> {
        let account = |peer: &Peer, number| peer.existing(number).unwrap_or_else(|| Account::random(peer));
        let (sender, receiver) = (account(from, 0), account(to, 1));
        for account in [&sender, &receiver] {
            account
                .imap()
                .await
                .with_context(|| format!("cannot sign up at {}", account.peer.domain))?;
        }
        Ok(Self { sender, receiver })
    }

    /// Sends one message and waits until the recipient is notified.
    pub async fn probe(&self, number: u64) -> Probe {
        match self.travel().await {
            Ok(time) => Probe {
                number,
                seconds: Some(time.as_secs_f64()),
                failure: None,
            },
            Err(error) => Probe {
                number,
                seconds: None,
                failure: Some(format!("{error:#}")),
            },
        }
    }

    /// Logs in first, so that only the message is measured.
    async fn travel(&self) -> anyhow::Result<Duration> {
        let (mut imap, exists) = self.receiver.inbox().await?;
        let mut smtp = self.sender.smtp().await?;
        let mut idle = imap.idle().await?;
        let message = pgp::encrypted(&self.sender.address, SIZE);
        let start = Instant::now();
        smtp.send(&self.sender.address, &[&self.receiver.address], &message.bytes())
            .await?
            .expect(250)?;
        let (_, notified) = idle.exists(exists + 1, LOST).await?;
        let imap = idle.done().await?;
        // Keeps the mailbox small over days. Other messages are none of our business.
        imap.delete(message.id()).await?;
        Ok(notified.saturating_duration_since(start))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn arrived(number: u64, seconds: f64) -> Probe {
        Probe {
            number,
            seconds: Some(seconds),
            failure: None,
        }
    }

    #[test]
    fn figures_are_those_of_the_times() {
        let mut times = Times::default();
        assert_eq!(times.summary().text(), "0 sent, 0 arrived, 0 lost");
        for number in 1..=200u32 {
            times.add(&arrived(number.into(), f64::from(number) / 100.0));
        }
        times.add(&Probe {
            number: 201,
            seconds: None,
            failure: Some("timed out".to_owned()),
        });
        assert_eq!(
            times.summary().text(),
            "201 sent, 200 arrived, 1 lost\nmin 0.010 s, mean 1.005 s, p99 1.980 s, max 2.000 s"
        );
    }

    #[test]
    fn memory_is_bounded() {
        let mut times = Times::default();
        for number in 0..(MAX_TIMES as u64 + 10) {
            times.add(&arrived(number, 1.0));
        }
        assert_eq!(times.seconds.len(), MAX_TIMES);
        assert_eq!(times.summary().lost, 0);
    }
}
