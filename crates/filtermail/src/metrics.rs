//! Metrics of the filters.

use std::time::Duration;

use metrics::{counter, describe_counter, describe_histogram, histogram};

use crate::check::Direction;
use crate::reply::Reply;

const MESSAGES: &str = "chatmail_filter_messages_total";
const DURATION: &str = "chatmail_filter_duration_seconds";
const RECIPIENTS: &str = "chatmail_filter_recipients_total";
const DKIM: &str = "chatmail_dkim_results_total";
const KEYS: &str = "chatmail_dkim_keys_total";

/// Values of the label `verdict`.
const VERDICTS: [&str; 6] = [
    "accepted",
    "cleartext",
    "blocked",
    "refused",
    "deferred",
    "limited",
];

/// Names the metrics of one filter and sets them to zero, so that none appears only with the first message.
pub(crate) fn describe(direction: Direction) {
    describe_counter!(MESSAGES, "Messages by direction and what became of them.");
    describe_histogram!(
        DURATION,
        "Time from the end of a message to its reply, including reinjection into Postfix."
    );
    describe_counter!(
        RECIPIENTS,
        "Recipients of accepted messages, by whether Dovecot stored the message at once or Postfix queued it."
    );
    for verdict in VERDICTS {
        count(direction, verdict, 0);
    }
    passed_on(direction, 0, 0);
    if direction == Direction::Incoming {
        describe_counter!(DKIM, "Messages whose DKIM signatures were verified, by result.");
        describe_counter!(KEYS, "DKIM keys needed, by whether they were in the cache.");
        for result in ["valid", "invalid", "temporary"] {
            counter!(DKIM, "result" => result).absolute(0);
        }
        for cache in ["hit", "miss"] {
            counter!(KEYS, "cache" => cache).absolute(0);
        }
    }
}

/// Counts a message by the reply to it.
pub(crate) fn answered(direction: Direction, reply: &Reply, took: Duration) {
    let verdict = if reply.is_success() {
        "accepted"
    } else if *reply == Reply::ENCRYPTION_NEEDED {
        "cleartext"
    } else if reply.is_blocked() {
        "blocked"
    } else if reply.as_str().starts_with('4') {
        "deferred"
    } else {
        "refused"
    };
    count(direction, verdict, 1);
    histogram!(DURATION, "direction" => name(direction)).record(took);
}

/// Counts recipients whose mailboxes contain the message, and recipients whom Postfix delivers to.
pub(crate) fn passed_on(direction: Direction, mailbox: usize, queue: usize) {
    for (to, recipients) in [("mailbox", mailbox), ("queue", queue)] {
        counter!(RECIPIENTS, "direction" => name(direction), "to" => to).increment(recipients as u64);
    }
}

/// Counts a message of a sender who has sent too many.
pub(crate) fn limited() {
    count(Direction::Outgoing, "limited", 1);
}

/// Counts a sender or recipient that the rules of the operator exclude, before a message was sent.
pub(crate) fn blocked(direction: Direction) {
    count(direction, "blocked", 1);
}

fn count(direction: Direction, verdict: &'static str, messages: u64) {
    counter!(MESSAGES, "direction" => name(direction), "verdict" => verdict).increment(messages);
}

fn name(direction: Direction) -> &'static str {
    match direction {
        Direction::Outgoing => "outgoing",
        Direction::Incoming => "incoming",
    }
}

/// Counts a message whose signatures were verified.
pub(crate) fn dkim(result: &'static str) {
    counter!(DKIM, "result" => result).increment(1);
}

/// Counts a key that a signature needs.
pub(crate) fn key(found: bool) {
    counter!(KEYS, "cache" => if found { "hit" } else { "miss" }).increment(1);
}
