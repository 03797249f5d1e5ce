//! The events of a client, kept in order so that no waiting caller misses one.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use serde_json::{Value, json};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::rpc::Rpc;

/// An event.
#[derive(Debug, Clone)]
pub struct Event {
    /// When the client reported it.
    pub at: Instant,
    /// Kind of event, such as `IncomingMsg`.
    pub kind: String,
    fields: Value,
}

impl Event {
    /// Returns a numeric field.
    pub fn number(&self, field: &str) -> Option<u32> {
        self.fields.get(field)?.as_u64()?.try_into().ok()
    }
}

/// A position in the stream of events.
#[derive(Debug, Clone, Copy)]
pub struct Mark(usize);

/// All events since the client started.
pub(super) struct Events {
    log: Arc<Mutex<Vec<Event>>>,
    /// Number of events so far; closed when the client exits.
    count: watch::Receiver<usize>,
    follower: JoinHandle<()>,
}

impl Events {
    /// Starts reading the events of a client.
    pub(super) fn follow(rpc: Arc<Rpc>) -> Self {
        let log = Arc::new(Mutex::new(Vec::new()));
        let (sender, count) = watch::channel(0);
        let follower = tokio::spawn(follow(rpc, Arc::clone(&log), sender));
        Self { log, count, follower }
    }

    /// Returns the current end of the stream.
    pub(super) fn mark(&self) -> Mark {
        Mark(lock(&self.log).len())
    }

    /// Waits for the first event after `start` that `pick` accepts; also returns the position after it.
    pub(super) async fn wait<T>(
        &self,
        start: Mark,
        within: Duration,
        what: &str,
        pick: impl Fn(&Event) -> Option<T>,
    ) -> anyhow::Result<(Mark, T)> {
        let search = async {
            let mut count = self.count.clone();
            let mut next = start.0;
            loop {
                for (at, event) in lock(&self.log).iter().enumerate().skip(next) {
                    next = at + 1;
                    if let Some(picked) = pick(event) {
                        return Ok((Mark(next), picked));
                    }
                }
                count
                    .wait_for(|count| *count > next)
                    .await
                    .context("the client has exited")?;
            }
        };
        match tokio::time::timeout(within, search).await {
            Ok(found) => found,
            Err(_) => bail!(
                "timed out after {within:?} waiting for {what}; {}",
                self.last_lines()
            ),
        }
    }

    /// Returns the client's last warnings and errors.
    pub(super) fn last_lines(&self) -> String {
        let log = lock(&self.log);
        let lines = log
            .iter()
            .rev()
            .filter(|event| matches!(event.kind.as_str(), "Warning" | "Error"));
        let mut lines: Vec<&str> = lines
            .take(5)
            .filter_map(|event| event.fields.get("msg").and_then(Value::as_str))
            .collect();
        lines.reverse();
        format!(
            "last warnings of the client: {}",
            if lines.is_empty() {
                "none".to_owned()
            } else {
                lines.join(" | ")
            }
        )
    }
}

impl Drop for Events {
    fn drop(&mut self) {
        // The follower holds the client's handle; unless it stops, the client never exits.
        self.follower.abort();
    }
}

fn lock(log: &Mutex<Vec<Event>>) -> std::sync::MutexGuard<'_, Vec<Event>> {
    log.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn follow(rpc: Arc<Rpc>, log: Arc<Mutex<Vec<Event>>>, count: watch::Sender<usize>) {
    while let Ok(answer) = rpc.answer("get_next_event", json!([])).await {
        let fields = answer.get("event").cloned().unwrap_or_default();
        let kind = fields
            .get("kind")
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let length = {
            let mut log = lock(&log);
            log.push(Event {
                at: Instant::now(),
                kind,
                fields,
            });
            log.len()
        };
        // Sending fails if there is no receiver, which is fine.
        count.send_replace(length);
    }
}
