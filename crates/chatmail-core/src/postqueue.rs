//! The messages in Postfix's queue, as `postqueue -j` prints them (postqueue(1)).

use serde::{Deserialize, Serialize};

/// One line: a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// Name of the queue: `active`, `deferred`, `hold` and others.
    pub queue_name: String,
    /// Queue ID, which postsuper(1) and postcat(1) take.
    pub queue_id: String,
    /// Second of the arrival in Unix time.
    pub arrival_time: i64,
    /// Size in bytes.
    pub message_size: u64,
    /// Envelope sender; empty for a bounce.
    pub sender: String,
    /// Recipients that the message has not been delivered to.
    pub recipients: Vec<Recipient>,
}

/// A recipient of a message.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Address.
    pub address: String,
    /// Why the last attempt failed; none before the first.
    #[serde(default)]
    pub delay_reason: Option<String>,
}

impl Message {
    /// Why the message is deferred for one of its recipients; none while it is not.
    pub fn delay_reason(&self) -> Option<&str> {
        self.recipients
            .iter()
            .find_map(|recipient| recipient.delay_reason.as_deref())
    }
}

/// Parses the output.
pub fn parse(output: &str) -> serde_json::Result<Vec<Message>> {
    output.lines().map(serde_json::from_str).collect()
}
