//! Figures by destination, in bounded memory: anybody can send to as many domains as they like.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use chatmail_core::destinations::{Destinations, Figures, Outcome};
use moka::sync::Cache;

use super::record::Record;

/// Maximum number of destinations. Beyond it, the one with the fewest results joins the others.
const MAX_DOMAINS: usize = 1000;
/// Maximum number of destinations with metrics of their own.
const MAX_NAMED: usize = 20;
/// By how many results a destination has to lead before it takes the place of another in the metrics. Without this, two
/// could take turns.
const LEAD: u64 = 10;
/// Maximum number of recipients that are known to wait.
const MAX_WAITING: u64 = 20_000;
/// Longer than the time after which Postfix tries again (`maximal_backoff_time`, 4000 s). A recipient without another
/// result has left the queue, for example by `postsuper -d`.
const WAITING: Duration = Duration::from_secs(2 * 3600);
/// Label of all destinations without metrics of their own.
const OTHERS: &str = "other";

/// Figures since the start, and those for metrics.
pub(super) struct Table {
    pub(super) all: Destinations,
    /// What has happened to these destinations since they have metrics of their own. Every result counts in one series
    /// only, so that no counter decreases.
    named: BTreeMap<String, Figures>,
    unnamed: Figures,
    /// Recipients whose last attempt was deferred, with their destinations.
    waiting: Cache<String, Box<str>>,
}

impl Table {
    /// Continues with earlier figures.
    pub(super) fn new(all: Destinations) -> Self {
        Self {
            all,
            named: BTreeMap::new(),
            unnamed: Figures::default(),
            waiting: Cache::builder()
                .max_capacity(MAX_WAITING)
                .time_to_live(WAITING)
                .build(),
        }
    }

    /// Counts a result.
    pub(super) fn count(&mut self, record: Record) {
        let domain = record.domain.as_deref();
        match &record.outcome {
            Outcome::Deferred(_) => self.waiting.insert(record.key, domain.unwrap_or(OTHERS).into()),
            Outcome::Sent(_) | Outcome::Bounced(_) => self.waiting.invalidate(&record.key),
        }
        let Some(domain) = domain else {
            self.all.others.add(&record.outcome);
            self.unnamed.add(&record.outcome);
            return;
        };
        if !self.all.domains.contains_key(domain) && self.all.domains.len() >= MAX_DOMAINS {
            self.drop_smallest();
        }
        let figures = self.all.domains.entry(domain.to_owned()).or_default();
        figures.add(&record.outcome);
        let total = figures.total();
        self.name(domain, total);
        let series = self.named.get_mut(domain).unwrap_or(&mut self.unnamed);
        series.add(&record.outcome);
    }

    fn total(&self, domain: &str) -> u64 {
        self.all.domains.get(domain).map_or(0, Figures::total)
    }

    fn drop_smallest(&mut self) {
        let smallest = self.all.domains.iter().min_by_key(|(_, figures)| figures.total());
        let Some(domain) = smallest.map(|(domain, _)| domain.clone()) else {
            return;
        };
        if let Some(figures) = self.all.domains.remove(&domain) {
            self.all.others.merge(&figures);
        }
        self.named.remove(&domain);
    }

    /// Gives a destination metrics of its own, if it is one of the busiest.
    fn name(&mut self, domain: &str, total: u64) {
        if self.named.contains_key(domain) {
            return;
        }
        if self.named.len() >= MAX_NAMED {
            let smallest = self.named.keys().min_by_key(|named| self.total(named));
            let Some(smallest) = smallest.filter(|named| total >= self.total(named) + LEAD) else {
                return;
            };
            let smallest = smallest.clone();
            self.named.remove(&smallest);
        }
        self.named.insert(domain.to_owned(), Figures::default());
    }

    /// The metrics in the text format of Prometheus.
    pub(super) fn metrics(&self) -> String {
        let mut waiting: BTreeMap<&str, usize> = BTreeMap::new();
        let deferred: Vec<_> = self.waiting.iter().map(|(_, domain)| domain).collect();
        for domain in &deferred {
            let named = self.named.get_key_value(&**domain);
            let label = named.map_or(OTHERS, |(named, _)| named.as_str());
            *waiting.entry(label).or_default() += 1;
        }
        let named = self
            .named
            .iter()
            .map(|(domain, figures)| (domain.as_str(), figures));
        let series: Vec<_> = named.chain([(OTHERS, &self.unnamed)]).collect();
        let mut text = String::new();
        let head = |text: &mut String, name: &str, kind: &str, help: &str| {
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        };
        let name = "chatmail_destination_deliveries_total";
        head(
            &mut text,
            name,
            "counter",
            "Results of attempts to deliver, by destination.",
        );
        for (domain, figures) in &series {
            let results = [
                ("sent", figures.sent),
                ("deferred", figures.deferred),
                ("bounced", figures.bounced),
            ];
            for (result, count) in results {
                let _ = writeln!(text, "{name}{{domain=\"{domain}\",result=\"{result}\"}} {count}");
            }
        }
        let name = "chatmail_destination_failures_total";
        head(
            &mut text,
            name,
            "counter",
            "Attempts that failed, by destination and reason.",
        );
        for (domain, figures) in &series {
            for (reason, count) in &figures.reasons {
                let _ = writeln!(text, "{name}{{domain=\"{domain}\",reason=\"{reason}\"}} {count}");
            }
        }
        let name = "chatmail_destination_delay_seconds";
        head(
            &mut text,
            name,
            "summary",
            "Time from acceptance to delivery, by destination.",
        );
        for (domain, figures) in &series {
            if let Some(p99) = figures.quantile(0.99) {
                let _ = writeln!(text, "{name}{{domain=\"{domain}\",quantile=\"0.99\"}} {p99:.3}");
            }
            let _ = writeln!(text, "{name}_sum{{domain=\"{domain}\"}} {:.3}", figures.seconds);
            let _ = writeln!(text, "{name}_count{{domain=\"{domain}\"}} {}", figures.sent);
        }
        let name = "chatmail_destination_waiting";
        head(
            &mut text,
            name,
            "gauge",
            "Recipients whose last attempt was deferred, by destination.",
        );
        for (domain, _) in &series {
            let count = waiting.get(domain).copied().unwrap_or_default();
            let _ = writeln!(text, "{name}{{domain=\"{domain}\"}} {count}");
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(n: usize, domain: &str, outcome: Outcome) -> Record {
        Record {
            key: format!("{n} a@{domain}"),
            domain: Some(domain.to_owned()),
            outcome,
            attempt: 0.0,
        }
    }

    fn sent(table: &mut Table, domain: &str, times: usize) {
        for n in 0..times {
            table.count(record(n, domain, Outcome::Sent(0.5)));
        }
    }

    #[test]
    fn a_million_destinations_push_out_no_busy_one() {
        let mut table = Table::new(Destinations::default());
        sent(&mut table, "busy.test", 50);
        for n in 0..100_000 {
            sent(&mut table, &format!("{n}.test"), 1);
        }
        assert_eq!(table.all.domains.len(), MAX_DOMAINS);
        assert_eq!(table.total("busy.test"), 50);
        let named: u64 = table.all.domains.values().map(Figures::total).sum();
        assert_eq!(named + table.all.others.total(), 100_050);
        assert_eq!(table.named.len(), MAX_NAMED);
        assert!(table.named.contains_key("busy.test"));
        let text = table.metrics();
        assert!(text.lines().count() < MAX_NAMED * 8 + 20, "{text}");
        // One that becomes busy gets its name.
        sent(&mut table, "late.test", 30);
        let text = table.metrics();
        let series = "chatmail_destination_deliveries_total{domain=\"late.test\",result=\"sent\"}";
        assert!(text.contains(series), "{text}");
    }

    #[test]
    fn every_result_is_in_one_series() {
        let mut table = Table::new(Destinations::default());
        let mut last = 0;
        for n in 0..3000 {
            sent(&mut table, &format!("{}.test", n * n % 97), 1);
            let others = table.unnamed.total();
            assert!(others >= last, "a counter decreases");
            last = others;
        }
        assert!(table.named.len() <= MAX_NAMED);
    }

    #[test]
    fn recipients_wait_until_their_next_result() {
        let mut table = Table::new(Destinations::default());
        let deferred = || Outcome::Deferred("4.4.1 no connection".to_owned());
        for n in 0..3 {
            table.count(record(n, "b.test", deferred()));
        }
        table.count(record(0, "b.test", deferred()));
        table.count(record(1, "b.test", Outcome::Sent(70.0)));
        table.waiting.run_pending_tasks();
        let text = table.metrics();
        for line in [
            "chatmail_destination_waiting{domain=\"b.test\"} 2\n",
            "chatmail_destination_waiting{domain=\"other\"} 0\n",
            "chatmail_destination_failures_total{domain=\"b.test\",reason=\"4.4.1 no connection\"} 4\n",
            "chatmail_destination_delay_seconds_sum{domain=\"b.test\"} 70.000\n",
        ] {
            assert!(text.contains(line), "{line}{text}");
        }
    }
}
