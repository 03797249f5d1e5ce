//! Follows a message through the journals of the relays.
//!
//! All machines share the clock of this host, and only one message is in transit at a time, so everything that a relay
//! logs between the start and the end of a message belongs to it.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// Microseconds of Unix time.
pub(super) type Micros = u64;

/// A line of a relay's journal.
#[derive(Debug, Clone)]
pub(super) struct Entry {
    pub(super) relay: &'static str,
    pub(super) at: Micros,
    pub(super) program: String,
    pub(super) message: String,
}

#[derive(Deserialize)]
struct Record {
    #[serde(rename = "__REALTIME_TIMESTAMP")]
    received: String,
    #[serde(rename = "_SOURCE_REALTIME_TIMESTAMP")]
    said: Option<String>,
    #[serde(rename = "SYSLOG_IDENTIFIER", default)]
    identifier: String,
    #[serde(rename = "_SYSTEMD_UNIT", default)]
    unit: String,
    /// A list of bytes if it is not UTF-8.
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

/// Parses `journalctl --output=json`; skips messages that are not UTF-8.
pub(super) fn entries(relay: &'static str, text: &str) -> Vec<Entry> {
    let parse = |line: &str| {
        let record: Record = serde_json::from_str(line).ok()?;
        let at = record.said.unwrap_or(record.received).parse().ok()?;
        let message = record.message.as_str()?.to_owned();
        Some(Entry {
            relay,
            at,
            program: format!("{} {}", record.unit, record.identifier),
            message,
        })
    };
    text.lines().filter_map(parse).collect()
}

/// Which time a log line stands for.
#[derive(Debug, Clone, Copy)]
enum When {
    /// When it was logged.
    Said,
    /// When the pass through the filter began. The filter logs at its end.
    PassBegan,
    /// When the filter had decided on the message and began to return it to Postfix.
    PassJudged,
}

/// A point on the path of a message, and the hop that ends there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// What happens between the previous mark and this one.
    pub(super) hop: &'static str,
    relay: &'static str,
    program: &'static str,
    text: &'static str,
    when: When,
}

const PASS: &str = "pass took ";
const REINJECTION: &str = " us, of which reinjection ";
const QUEUED: &str = "(queue active)";
const SAVED: &str = "saved mail to";

/// Durations of a whole pass, and of the reinjection at its end, in microseconds.
fn pass(message: &str) -> Option<(Micros, Micros)> {
    let (whole, reinjection) = message.split_once(PASS)?.1.split_once(REINJECTION)?;
    Some((
        whole.parse().ok()?,
        reinjection.strip_suffix(" us")?.parse().ok()?,
    ))
}

impl Mark {
    const fn line(hop: &'static str, relay: &'static str, program: &'static str, text: &'static str) -> Self {
        Self {
            hop,
            relay,
            program,
            text,
            when: When::Said,
        }
    }

    const fn pass(hop: &'static str, relay: &'static str, program: &'static str, when: When) -> Self {
        Self {
            hop,
            relay,
            program,
            text: PASS,
            when,
        }
    }

    /// When the message reached this mark, if this entry is about it.
    fn time(&self, entry: &Entry) -> Option<Micros> {
        let matches = entry.relay == self.relay
            && entry.program.contains(self.program)
            && entry.message.contains(self.text);
        if !matches {
            return None;
        }
        let before = match self.when {
            When::Said => 0,
            When::PassBegan => pass(&entry.message)?.0,
            When::PassJudged => pass(&entry.message)?.1,
        };
        Some(entry.at.saturating_sub(before))
    }
}

/// The path of a message within relay a.
pub(super) const ONE_RELAY: &[Mark] = &[TAKEN, FILTERED, delivered("a")];

/// The path of a message from relay a to relay b.
pub(super) const TWO_RELAYS: &[Mark] = &[
    TAKEN,
    FILTERED,
    SIGNED,
    Mark::pass("Postfix to Postfix", "b", INCOMING, When::PassBegan),
    Mark::pass("filtermail, incoming", "b", INCOMING, When::PassJudged),
    delivered("b"),
];

const INCOMING: &str = "filtermail-incoming";
const OUTGOING: &str = "filtermail-outgoing";

const TAKEN: Mark = Mark::pass("reception by Postfix", "a", OUTGOING, When::PassBegan);
const FILTERED: Mark = Mark::pass("filtermail, outgoing", "a", OUTGOING, When::PassJudged);
const SIGNED: Mark = Mark::line("reinjection, signing, queueing", "a", "postfix", QUEUED);

const fn delivered(relay: &'static str) -> Mark {
    Mark::line("LMTP to Dovecot", relay, "dovecot", SAVED)
}

/// The hop after the last mark of the relays.
pub(super) const NOTIFICATION: &str = "IDLE notification";
/// The hop after the notification.
pub(super) const FETCH: &str = "end of IDLE, FETCH";

/// Times of one message, as its sender and its receiver measure them.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The sender begins to send the message.
    pub(super) start: Micros,
    /// The receiver is notified of it.
    pub(super) notified: Micros,
    /// The receiver has fetched it.
    pub(super) fetched: Micros,
}

/// Duration of each hop of one message. If no line matches a mark, the next hop includes its time.
pub(super) fn hops(marks: &[Mark], entries: &[Entry], seen: Seen) -> Vec<(&'static str, Duration)> {
    let mut hops = Vec::with_capacity(marks.len() + 2);
    let mut last = seen.start;
    let mut reached = |hop, at: Micros| {
        hops.push((hop, Duration::from_micros(at.saturating_sub(last))));
        last = last.max(at);
    };
    for mark in marks {
        let times = entries.iter().filter_map(|entry| mark.time(entry));
        // If several lines match, the message reaches the mark with the first.
        if let Some(at) = times.filter(|at| (seen.start..=seen.notified).contains(at)).min() {
            reached(mark.hop, at);
        }
    }
    reached(NOTIFICATION, seen.notified);
    reached(FETCH, seen.fetched);
    hops
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(at: &str, unit: &str, message: &str) -> String {
        format!(
            "{{\"__REALTIME_TIMESTAMP\":\"9999\",\"_SOURCE_REALTIME_TIMESTAMP\":\"{at}\",\
             \"_SYSTEMD_UNIT\":\"{unit}\",\"SYSLOG_IDENTIFIER\":\"x\",\"MESSAGE\":\"{message}\"}}\n"
        )
    }

    #[test]
    fn a_message_is_followed_through_the_journal() {
        let journal = [
            line(
                "50",
                "postfix.service",
                "AB: from=<x>, size=1, nrcpt=1 (queue active)",
            ),
            line(
                "300",
                "filtermail-outgoing.service",
                "pass took 150 us, of which reinjection 50 us",
            ),
            line(
                "400",
                "postfix.service",
                "CD: from=<x>, size=1, nrcpt=1 (queue active)",
            ),
            line(
                "700",
                "dovecot.service",
                "lmtp(y): msgid=<z>: saved mail to INBOX",
            ),
            "{\"__REALTIME_TIMESTAMP\":\"1\",\"MESSAGE\":[1,2]}\nnot json\n".to_owned(),
        ];
        let entries = entries("a", &journal.concat());
        assert_eq!(entries.len(), 4);
        let seen = Seen {
            start: 100,
            notified: 900,
            fetched: 1000,
        };
        let micros: Vec<u128> = hops(ONE_RELAY, &entries, seen)
            .iter()
            .map(|(_, time)| time.as_micros())
            .collect();
        assert_eq!(micros, [50, 100, 450, 200, 100]);
    }

    #[test]
    fn what_nobody_logged_counts_with_the_next() {
        let seen = Seen {
            start: 100,
            notified: 900,
            fetched: 1000,
        };
        let entries = entries("a", &line("400", "postfix.service", "(queue active)"));
        let hops = hops(TWO_RELAYS, &entries, seen);
        let names: Vec<&str> = hops.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["reinjection, signing, queueing", NOTIFICATION, FETCH]);
        assert_eq!(hops[0].1, Duration::from_micros(300));
    }
}
