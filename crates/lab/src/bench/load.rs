//! Senders that submit messages as fast as they can or at a steady rate, and receivers that fetch each message they are
//! notified of.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::message::header;
use mailtest::client::smtp::Smtp;
use mailtest::client::{Account, Peer, pgp};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use super::stats::Summary;
use super::target::Target;

/// Concurrent logins during the preparation. Each of them costs a password hash.
const AT_ONCE: usize = 8;
/// How long a receiver waits for a notification before it starts IDLE again.
const PATIENCE: Duration = Duration::from_secs(2);

/// The load on the relay.
#[derive(Debug, Clone, Copy)]
pub(super) struct Load {
    pub(super) senders: usize,
    pub(super) receivers: usize,
    /// Total of all senders.
    pub(super) messages: usize,
    /// Bytes of ciphertext per message.
    pub(super) size: usize,
    /// Time between two messages of a sender; without it, each sends as fast as it can.
    pub(super) every: Option<Duration>,
}

/// Who receives messages of which size.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Traffic {
    /// Receivers, each in IDLE
    #[arg(long, value_name = "N", default_value_t = 50)]
    receivers: usize,
    /// Bytes of ciphertext per message; with 1300, a message has 2.8 kB, like a text message of Delta Chat
    #[arg(long, value_name = "BYTES", default_value_t = 1300)]
    size: usize,
}

impl Traffic {
    /// Checks that there is something to measure with this number of messages.
    pub(super) fn check(self, messages: usize) -> anyhow::Result<()> {
        ensure!(messages > 0, "--messages must be 1 or more");
        ensure!(self.receivers > 0, "--receivers must be 1 or more");
        Ok(())
    }

    /// Messages from this number of senders, each as fast as it can.
    pub(super) fn load(self, senders: usize, messages: usize) -> Load {
        Load {
            senders,
            receivers: self.receivers,
            messages,
            size: self.size,
            every: None,
        }
    }
}

/// One number of senders and their messages.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(super) struct Volume {
    /// Concurrent senders
    #[arg(long, value_name = "N", default_value_t = 10)]
    senders: usize,
    /// Total number of messages of all senders
    #[arg(long, value_name = "N", default_value_t = 1000)]
    messages: usize,
    #[command(flatten)]
    traffic: Traffic,
}

impl Volume {
    /// Checks that there is something to measure.
    pub(super) fn check(self) -> anyhow::Result<()> {
        self.traffic.check(self.messages)
    }

    /// The load, each sender as fast as it can.
    pub(super) fn load(self) -> Load {
        self.traffic.load(self.senders, self.messages)
    }
}

/// Progress of one message.
#[derive(Debug, Clone, Copy, Default)]
struct Times {
    accepted: Option<Instant>,
    fetched: Option<Instant>,
    copies: usize,
}

/// Progress of all messages.
#[derive(Default)]
struct Record {
    messages: Mutex<HashMap<String, Times>>,
    fetched: AtomicUsize,
    changed: Notify,
}

impl Record {
    fn note(&self, id: &str, what: impl FnOnce(&mut Times)) {
        let mut messages = self.messages.lock().unwrap_or_else(PoisonError::into_inner);
        what(messages.entry(id.to_owned()).or_default());
    }

    fn fetched(&self, id: &str, now: Instant) {
        let mut first = false;
        self.note(id, |times| {
            times.copies += 1;
            first = times.fetched.is_none();
            times.fetched.get_or_insert(now);
        });
        if first {
            self.fetched.fetch_add(1, Ordering::Relaxed);
            self.changed.notify_one();
        }
    }
}

/// All senders and receivers, logged in.
pub(super) struct People {
    senders: Vec<(Account, Smtp)>,
    receivers: Vec<(Account, Imap)>,
}

/// Results of a run.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) sent: usize,
    pub(super) lost: usize,
    pub(super) doubled: usize,
    /// From the first message to the last 250.
    pub(super) taking: Duration,
    /// From the first message to the last FETCH.
    pub(super) fetching: Duration,
    /// From MAIL to the 250; shows how much the relay slows down senders.
    pub(super) submission: Option<Summary>,
    /// From the 250 to the end of FETCH.
    pub(super) delivery: Option<Summary>,
}

impl Outcome {
    pub(super) fn fetched_per_second(&self) -> f64 {
        (self.sent - self.lost) as f64 / self.fetching.as_secs_f64()
    }

    /// Every message arrives once, and none waits for a retry of Postfix.
    pub(super) fn targets(&self, deferred: usize, when: &str) -> [Target; 3] {
        [
            ("deferred", deferred),
            ("not fetched", self.lost),
            ("fetched twice", self.doubled),
        ]
        .map(|(what, count)| Target::at_most(0.0, "messages", format!("{what}, {when}"), count as f64))
    }
}

impl People {
    /// Creates all accounts and logs in.
    pub(super) async fn gather(from: &Peer, to: &Peer, load: Load) -> anyhow::Result<Self> {
        let turns = Arc::new(Semaphore::new(AT_ONCE));
        let mut senders = JoinSet::new();
        for _ in 0..load.senders {
            let (turns, account) = (Arc::clone(&turns), Account::random(from));
            senders.spawn(async move {
                let _turn = turns.acquire().await?;
                let smtp = account.smtp().await.context("cannot log in a sender")?;
                anyhow::Ok((account, smtp))
            });
        }
        let mut receivers = JoinSet::new();
        for _ in 0..load.receivers {
            let (turns, account) = (Arc::clone(&turns), Account::random(to));
            receivers.spawn(async move {
                let _turn = turns.acquire().await?;
                let (imap, _) = account.inbox().await.context("cannot log in a receiver")?;
                anyhow::Ok((account, imap))
            });
        }
        Ok(Self {
            senders: all(senders).await?,
            receivers: all(receivers).await?,
        })
    }

    /// Sends all messages and waits until they are fetched, or until `patience` has passed since the last 250.
    pub(super) async fn play(self, load: Load, patience: Duration) -> anyhow::Result<Outcome> {
        let record = Arc::new(Record::default());
        let addresses: Arc<[String]> = self
            .receivers
            .iter()
            .map(|(account, _)| account.address.clone())
            .collect();
        ensure!(!addresses.is_empty(), "there is no receiver");
        let mut receiving = JoinSet::new();
        for (_, imap) in self.receivers {
            receiving.spawn(receive(imap, Arc::clone(&record)));
        }
        let start = Instant::now();
        let next = Arc::new(AtomicUsize::new(0));
        let mut sending = JoinSet::new();
        for (account, smtp) in self.senders {
            let sender = Sender {
                account,
                smtp,
                to: Arc::clone(&addresses),
                record: Arc::clone(&record),
            };
            sending.spawn(sender.send(Arc::clone(&next), load));
        }
        let submissions: Vec<Duration> = all(sending).await?.into_iter().flatten().collect();
        let taking = start.elapsed();
        let everything = async {
            while record.fetched.load(Ordering::Relaxed) < load.messages {
                tokio::select! {
                    () = record.changed.notified() => {}
                    ended = receiving.join_next() => match ended {
                        Some(ended) => ended??,
                        None => anyhow::bail!("no receiver is left"),
                    },
                }
            }
            anyhow::Ok(())
        };
        // Messages that are not fetched by then count as lost.
        if let Ok(done) = tokio::time::timeout(patience, everything).await {
            done?;
        }
        receiving.shutdown().await;
        Ok(outcome(&record, start, taking, submissions))
    }
}

fn outcome(record: &Record, start: Instant, taking: Duration, submissions: Vec<Duration>) -> Outcome {
    let messages = record.messages.lock().unwrap_or_else(PoisonError::into_inner);
    let delivery = messages
        .values()
        .filter_map(|times| Some(times.fetched?.saturating_duration_since(times.accepted?)));
    let last = messages.values().filter_map(|times| times.fetched).max();
    Outcome {
        sent: submissions.len(),
        lost: messages.values().filter(|times| times.fetched.is_none()).count(),
        doubled: messages.values().filter(|times| times.copies > 1).count(),
        taking,
        fetching: last.map_or(taking, |last| last.duration_since(start)),
        delivery: Summary::of(delivery),
        submission: Summary::of(submissions),
    }
}

/// Waits for all tasks; the first error aborts the others.
async fn all<T: 'static>(mut tasks: JoinSet<anyhow::Result<T>>) -> anyhow::Result<Vec<T>> {
    let mut results = Vec::with_capacity(tasks.len());
    while let Some(ended) = tasks.join_next().await {
        results.push(ended??);
    }
    Ok(results)
}

struct Sender {
    account: Account,
    smtp: Smtp,
    to: Arc<[String]>,
    record: Arc<Record>,
}

impl Sender {
    /// Sends until all senders together have sent all messages; returns the duration of each submission.
    async fn send(mut self, next: Arc<AtomicUsize>, load: Load) -> anyhow::Result<Vec<Duration>> {
        let mut took = Vec::new();
        let mut ticks = load.every.map(tokio::time::interval);
        loop {
            if let Some(ticks) = &mut ticks {
                ticks.tick().await;
            }
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= load.messages {
                return Ok(took);
            }
            let to = self
                .to
                .get(number % self.to.len())
                .context("there is no receiver")?;
            let message = pgp::encrypted(&self.account.address, load.size);
            let bytes = message.bytes();
            let start = Instant::now();
            let reply = self.smtp.send(&self.account.address, &[to], &bytes).await?;
            reply.expect(250).context("cannot submit a message")?;
            let accepted = Instant::now();
            took.push(accepted.duration_since(start));
            self.record
                .note(message.id(), |times| times.accepted = Some(accepted));
        }
    }
}

/// Fetches messages as they arrive, until the task is aborted or the connection fails.
async fn receive(mut imap: Imap, record: Arc<Record>) -> anyhow::Result<()> {
    let mut known = imap.exists();
    loop {
        let mut idle = imap.idle().await?;
        let told = idle.exists(known + 1, PATIENCE).await;
        idle.done().await?;
        if told.is_err() {
            continue;
        }
        while known < imap.exists() {
            known += 1;
            let stored = imap.fetch(known).await?;
            let now = Instant::now();
            for id in header(&stored, "Message-ID") {
                record.fetched(&id, now);
            }
        }
    }
}
