//! What is counted.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};

use crate::reply::Reply;

const MESSAGES: &str = "chatmail_filter_messages_total";
const DURATION: &str = "chatmail_filter_duration_seconds";
const DKIM: &str = "chatmail_dkim_results_total";
const KEYS: &str = "chatmail_dkim_keys_total";

/// What becomes of a message.
const VERDICTS: [&str; 5] = ["accepted", "cleartext", "refused", "deferred", "limited"];

/// Which of the two filters this process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// For submitted mail.
    Outgoing,
    /// For arriving mail.
    Incoming,
}

impl Direction {
    fn name(self) -> &'static str {
        match self {
            Self::Outgoing => "outgoing",
            Self::Incoming => "incoming",
        }
    }

    fn count(self, verdict: &'static str, messages: u64) {
        counter!(MESSAGES, "direction" => self.name(), "verdict" => verdict).increment(messages);
    }

    /// Names the metrics.
    pub(crate) fn describe(self) {
        describe_counter!(
            MESSAGES,
            "Messages that were answered, by direction and what became of them."
        );
        describe_histogram!(
            DURATION,
            "Time from the end of a message to its answer, Postfix taking it back included."
        );
        for verdict in VERDICTS {
            self.count(verdict, 0);
        }
        if self == Self::Incoming {
            describe_counter!(DKIM, "Messages whose DKIM signatures were verified, by result.");
            describe_counter!(KEYS, "DKIM keys that were asked for: found in the cache or not.");
            for result in ["valid", "invalid", "temporary"] {
                counter!(DKIM, "result" => result).absolute(0);
            }
            for cache in ["hit", "miss"] {
                counter!(KEYS, "cache" => cache).absolute(0);
            }
        }
    }

    /// A message was answered.
    pub(crate) fn answered(self, reply: &Reply, took: Duration) {
        let verdict = if reply.is_success() {
            "accepted"
        } else if *reply == Reply::ENCRYPTION_NEEDED {
            "cleartext"
        } else if reply.as_str().starts_with('4') {
            "deferred"
        } else {
            "refused"
        };
        self.count(verdict, 1);
        histogram!(DURATION, "direction" => self.name()).record(took);
    }

    /// A sender has sent too much already.
    pub(crate) fn limited(self) {
        self.count("limited", 1);
    }
}

/// Signatures were verified.
pub(crate) fn dkim(result: &'static str) {
    counter!(DKIM, "result" => result).increment(1);
}

/// A key was asked for.
pub(crate) fn key(found: bool) {
    counter!(KEYS, "cache" => if found { "hit" } else { "miss" }).increment(1);
}
