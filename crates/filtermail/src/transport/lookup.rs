//! Postfix's lookups (socketmap_table(5)): of the next hops of a recipient, and, as a filter of delivery statuses, of
//! the result of each attempt.
//!
//! Postfix defers mail while it gets no response, so responses come only from memory, without further lookups.

use std::net::{IpAddr, SocketAddr};
use std::time::Instant;

use chatmail_core::Settings;
use daemon::socketmap;

use super::hosts::Destination;
use super::memory::Memory;
use super::metrics;
use crate::reply::Reply;

/// Table of the next hops of each recipient (`transport_maps`).
const NEXT_HOPS: &str = "next-hops";
/// Table of the results of smtp(8), which it does not change (`smtp_delivery_status_filter`).
const RESULTS: &str = "results";

/// Postfix's transport for destinations that have accepted mail lately and promptly, and for all others. Each has its own
/// processes, so that any number of servers that do not answer leaves those for the former free.
const PROMPT: &str = "prompt";
const OTHERS: &str = "smtp";

/// Parts of temporary results that Postfix then makes permanent (`delivery-status` in nixos/postfix.nix).
const MADE_PERMANENT: [&str; 2] = [
    "DNS reply filter drops all results",
    "TLS is required, but was not offered by host ",
];

/// Decides how Postfix delivers to a recipient.
pub(super) struct Lookup {
    own_domain: String,
    own_addresses: Vec<IpAddr>,
    hop: SocketAddr,
    /// Whether Postfix delivers over SMTP if the hop does not.
    smtp: bool,
}

impl Lookup {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            own_domain: settings.domain.to_ascii_lowercase(),
            own_addresses: settings.addresses.clone(),
            hop: settings.transport.listen,
            smtp: settings.federation.smtp.send,
        }
    }

    /// The response to a lookup.
    pub(super) fn answer(&self, table: &str, key: &str, memory: &Memory, now: Instant) -> String {
        match (table, key) {
            (NEXT_HOPS, recipient) => {
                self.next_hops(recipient, |destination| memory.is_prompt(destination, now))
            }
            (RESULTS, result) => {
                if let Some(host) = unreachable(result) {
                    memory.unreachable(host, now);
                }
                if let Some((transport, result)) = self.classify(result) {
                    metrics::count_result(transport, result);
                }
                socketmap::NOT_FOUND.to_owned()
            }
            _ => socketmap::NO_SUCH_TABLE.to_owned(),
        }
    }

    /// Returns the response for a recipient: this service and then the destination itself, or "not found", after which
    /// Postfix delivers only over SMTP. Senders choose recipients, so only a valid domain or address becomes a next
    /// hop.
    ///
    /// The response does not change when a destination turns out to have no HTTPS: Postfix limits and suspends deliveries
    /// by transport and next hop, and a destination that is down must not count as two. Only a relay that becomes
    /// unreachable does, once.
    fn next_hops(&self, recipient: &str, is_prompt: impl FnOnce(&Destination) -> bool) -> String {
        let Some(destination) = Destination::of(recipient) else {
            return socketmap::NOT_FOUND.to_owned();
        };
        let name = destination.name();
        let own = match &destination {
            Destination::Domain(_) => false,
            Destination::Literal(address, _) => self.own_addresses.contains(address),
        };
        if own || name == self.own_domain {
            return socketmap::NOT_FOUND.to_owned();
        }
        let transport = if is_prompt(&destination) { PROMPT } else { OTHERS };
        let hop = format!("OK {transport}:[{}]:{}", self.hop.ip(), self.hop.port());
        if self.smtp { format!("{hop}, {name}") } else { hop }
    }

    /// Returns the transport and the result of an attempt for one recipient, from a result like
    /// `2.0.0 250 2.0.0 Ok: queued as X` or `5.7.1 host mx.example.org[192.0.2.1] said: 554 …`.
    fn classify(&self, result: &str) -> Option<(&'static str, &'static str)> {
        let (status, text) = result.split_once(' ')?;
        let hop = self.hop.ip();
        let over_https = text == Reply::OK_HTTPS.as_str() || text.starts_with(&format!("host {hop}[{hop}]"));
        let outcome = match status.as_bytes().first() {
            Some(b'2') => "sent",
            Some(b'4') if MADE_PERMANENT.iter().any(|part| text.contains(part)) => "bounced",
            Some(b'4') => "deferred",
            Some(b'5') => "bounced",
            _ => return None,
        };
        Some((if over_https { "https" } else { "smtp" }, outcome))
    }
}

/// Returns the host to which smtp(8) could not connect, from a result like
/// `4.4.1 connect to mx.example.org[192.0.2.1]:25: Connection timed out`.
fn unreachable(result: &str) -> Option<&str> {
    let (host, _) = result.strip_prefix("4.4.1 connect to ")?.split_once('[')?;
    Some(host)
}

#[cfg(test)]
mod tests {
    use super::super::answer::Answer;
    use super::*;

    fn lookup() -> Lookup {
        Lookup {
            own_domain: "chat.example.org".to_owned(),
            own_addresses: vec!["192.0.2.1".parse().unwrap()],
            hop: "127.0.0.1:10083".parse().unwrap(),
            smtp: true,
        }
    }

    #[test]
    fn without_smtp_there_is_no_other_hop() {
        let lookup = Lookup {
            smtp: false,
            ..lookup()
        };
        let answer = lookup.next_hops("a@b.test", |_| false);
        assert_eq!(answer, "OK smtp:[127.0.0.1]:10083");
        let own = lookup.next_hops("a@chat.example.org", |_| false);
        assert_eq!(own, socketmap::NOT_FOUND);
    }

    #[test]
    fn results_by_transport() {
        for (result, expected) in [
            ("2.0.0 250 OK (HTTPS)", Some(("https", "sent"))),
            ("2.0.0 250 2.0.0 Ok: queued as X", Some(("smtp", "sent"))),
            (
                "5.7.1 host 127.0.0.1[127.0.0.1] said: 554 5.7.1 no (in reply to end of DATA command)",
                Some(("https", "bounced")),
            ),
            (
                "5.7.1 host mx.b.test[192.0.2.1] said: 554 host 127.0.0.1[127.0.0.1]",
                Some(("smtp", "bounced")),
            ),
            (
                "4.4.1 connect to mx.b.test[192.0.2.1]:25: Connection timed out",
                Some(("smtp", "deferred")),
            ),
            (
                "4.7.4 TLS is required, but was not offered by host mx.b.test[192.0.2.1]",
                Some(("smtp", "bounced")),
            ),
            ("nonsense", None),
            ("", None),
        ] {
            assert_eq!(lookup().classify(result), expected, "{result}");
        }
    }

    #[test]
    fn others_are_reached_over_https_first() {
        let answer = |recipient: &str| lookup().next_hops(recipient, |_| false);
        for (recipient, next) in [
            ("a@B.test", "b.test"),
            ("a@[192.0.2.2]", "[192.0.2.2]"),
            ("a@[IPv6:2001:db8::1]", "[ipv6:2001:db8::1]"),
        ] {
            assert_eq!(answer(recipient), format!("OK smtp:[127.0.0.1]:10083, {next}"));
        }
        for recipient in [
            "a@chat.example.org",
            "a@Chat.Example.org",
            "a@[192.0.2.1]",
            "a@localhost",
            "a@x.test, [127.0.0.1]:10026",
            "a@x.test [127.0.0.1]:10026",
            "a@x.test:10026",
            "a@127.0.0.1",
            "*",
            "",
        ] {
            assert_eq!(answer(recipient), socketmap::NOT_FOUND, "{recipient}");
        }
    }

    #[test]
    fn prompt_destinations_have_processes_of_their_own() {
        let (memory, now) = (Memory::default(), Instant::now());
        let destination = Destination::of("a@b.test").unwrap();
        let answer = || lookup().answer(NEXT_HOPS, "a@B.test", &memory, now);
        assert_eq!(answer(), "OK smtp:[127.0.0.1]:10083, b.test");
        memory.answered(&destination, true, now);
        assert_eq!(answer(), "OK prompt:[127.0.0.1]:10083, b.test");
        memory.answered(&destination, false, now);
        assert_eq!(answer(), "OK smtp:[127.0.0.1]:10083, b.test");
    }

    #[test]
    fn unreachable_hosts_are_tried_over_https_again() {
        let (memory, now) = (Memory::default(), Instant::now());
        let hosts = ["mx.b.test".to_owned()];
        memory.note("b.test", &hosts, &Answer::NotOffered, now);
        for (result, forgotten) in [
            ("2.0.0 250 2.0.0 Ok: queued as X", false),
            ("4.4.2 lost connection with mx.b.test[192.0.2.1]", false),
            (
                "4.4.1 connect to mx.b.test[192.0.2.1]:25: Connection timed out",
                true,
            ),
        ] {
            let told = lookup().answer("results", result, &memory, now);
            assert_eq!(told, socketmap::NOT_FOUND);
            assert_eq!(memory.is_without("b.test", now), !forgotten, "{result}");
        }
    }
}
