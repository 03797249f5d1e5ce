//! Where a message was at which time, from the journals of the relays.
//!
//! All machines share the clock of this host, and only one message is under way at a time: what a relay logs between
//! the start of a message and its end belongs to that message.

use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

/// Microseconds since 1970.
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
    /// A list of numbers when it is not text.
    #[serde(rename = "MESSAGE", default)]
    message: Value,
}

/// Parses `journalctl --output=json`; lines that are not text are left out.
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

/// A place on the way, and the hop that ends there.
#[derive(Debug, Clone, Copy)]
pub(super) struct Mark {
    /// What happened since the mark before.
    pub(super) hop: &'static str,
    relay: &'static str,
    program: &'static str,
    text: &'static str,
    /// The line says how long something took that began this much earlier, and the mark is at the beginning.
    begins: bool,
}

const TOOK: &str = "pass took ";

impl Mark {
    const fn at(hop: &'static str, relay: &'static str, program: &'static str, text: &'static str) -> Self {
        Self {
            hop,
            relay,
            program,
            text,
            begins: false,
        }
    }

    const fn begin(hop: &'static str, relay: &'static str, program: &'static str) -> Self {
        Self {
            hop,
            relay,
            program,
            text: TOOK,
            begins: true,
        }
    }

    /// When this entry says that the message came by.
    fn time(&self, entry: &Entry) -> Option<Micros> {
        let matches = entry.relay == self.relay
            && entry.program.contains(self.program)
            && entry.message.contains(self.text);
        if !matches {
            return None;
        }
        if !self.begins {
            return Some(entry.at);
        }
        let (_, rest) = entry.message.split_once(TOOK)?;
        let took: Micros = rest.split(' ').next()?.parse().ok()?;
        Some(entry.at.saturating_sub(took))
    }
}

/// The way of a message from and to relay a.
pub(super) const ONE_RELAY: &[Mark] = &[
    Mark::begin("Postfix takes it from the client", "a", "filtermail-outgoing"),
    Mark::at("filtermail, outgoing", "a", "filtermail-outgoing", TOOK),
    Mark::at("Postfix signs and queues it", "a", "postfix", "(queue active)"),
    Mark::at("queue manager, LMTP to Dovecot", "a", "dovecot", "saved mail to"),
];

/// The way of a message from relay a to relay b.
pub(super) const TWO_RELAYS: &[Mark] = &[
    Mark::begin("Postfix takes it from the client", "a", "filtermail-outgoing"),
    Mark::at("filtermail, outgoing", "a", "filtermail-outgoing", TOOK),
    Mark::at("Postfix signs and queues it", "a", "postfix", "(queue active)"),
    Mark::begin("Postfix to Postfix", "b", "filtermail-incoming"),
    Mark::at("filtermail, incoming", "b", "filtermail-incoming", TOOK),
    Mark::at("Postfix queues it", "b", "postfix", "(queue active)"),
    Mark::at("queue manager, LMTP to Dovecot", "b", "dovecot", "saved mail to"),
];

/// The hop after the last mark of the relays.
pub(super) const NOTIFICATION: &str = "notification of the client in IDLE";
/// The hop after the notification.
pub(super) const FETCH: &str = "end of IDLE, FETCH";

/// Times of one message, as its clients have seen it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Seen {
    /// The sender begins to send.
    pub(super) start: Micros,
    /// The receiver is told.
    pub(super) notified: Micros,
    /// The receiver has it.
    pub(super) fetched: Micros,
}

/// How long each hop of one message took. A mark that nobody logged is left out, and its hop counts with the next.
pub(super) fn hops(marks: &[Mark], entries: &[Entry], seen: Seen) -> Vec<(&'static str, Duration)> {
    let mut hops = Vec::with_capacity(marks.len() + 2);
    let mut last = seen.start;
    let mut pass = |hop, at: Micros| {
        hops.push((hop, Duration::from_micros(at.saturating_sub(last))));
        last = last.max(at);
    };
    for mark in marks {
        let times = entries.iter().filter_map(|entry| mark.time(entry));
        // Where several lines match, the message has passed with the first.
        if let Some(at) = times.filter(|at| (seen.start..=seen.notified).contains(at)).min() {
            pass(mark.hop, at);
        }
    }
    pass(NOTIFICATION, seen.notified);
    pass(FETCH, seen.fetched);
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
            line("300", "filtermail-outgoing.service", "pass took 150 us"),
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
        assert_eq!(micros, [50, 150, 100, 300, 200, 100]);
    }

    #[test]
    fn what_nobody_logged_counts_with_the_next() {
        let seen = Seen {
            start: 100,
            notified: 900,
            fetched: 1000,
        };
        let entries = entries("a", &line("400", "postfix.service", "(queue active)"));
        let hops = hops(ONE_RELAY, &entries, seen);
        let names: Vec<&str> = hops.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["Postfix signs and queues it", NOTIFICATION, FETCH]);
        assert_eq!(hops[0].1, Duration::from_micros(300));
    }
}
