//! The queue of Postfix in a machine.

use anyhow::Context as _;
use serde::Deserialize;

use super::container;
use super::state::Leader;

/// A message in the queue, as `postqueue -j` tells (postqueue(1)).
#[derive(Debug, Deserialize)]
pub(crate) struct Queued {
    /// As postsuper(1) takes it.
    pub(crate) queue_id: String,
    /// Who it has not been delivered to.
    pub(crate) recipients: Vec<Recipient>,
}

/// One of its recipients.
#[derive(Debug, Deserialize)]
pub(crate) struct Recipient {
    /// The address.
    pub(crate) address: String,
    /// Why the last attempt failed, if there was one.
    pub(crate) delay_reason: Option<String>,
}

impl Queued {
    /// Why a recipient has to wait for another attempt, if one has.
    pub(crate) fn deferred(&self) -> Option<&str> {
        self.recipients
            .iter()
            .find_map(|recipient| recipient.delay_reason.as_deref())
    }
}

/// Everything in the queue.
pub(super) async fn read(leader: Leader) -> anyhow::Result<Vec<Queued>> {
    let listed = container::capture(leader, &["postqueue", "-j"]).await?;
    listed
        .lines()
        .map(|line| serde_json::from_str(line).with_context(|| format!("postqueue printed {line}")))
        .collect()
}
