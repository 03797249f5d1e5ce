//! `chatmail destinations`: what became of mail to other domains.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_core::destinations::{Destinations, Figures};
use serde::Serialize;

use crate::answer::entry;
use crate::status::system;
use crate::times::minute;
use crate::{queue, times};

/// The service that counts.
const COUNTER: &str = "filtermail-outgoing.service";
/// Maximum size of its file.
const MAX_FILE: u64 = 16 << 20;
/// Maximum length of a domain in the table.
const WIDTH: usize = 28;
/// Name of the row for all destinations that are not listed.
const OTHERS: &str = "(others)";

/// Show deliveries to other domains, with the reasons of those that failed. Exits with status 1 if they are not counted
/// or the queue cannot be read.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// Deliveries to other domains.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Unix time at which counting has begun; null if nothing has been counted yet.
    pub(crate) since: Option<u64>,
    /// Destinations, the busiest first.
    pub(crate) destinations: Vec<Row>,
    /// All others together.
    others: Row,
}

#[derive(Debug, Serialize)]
pub(crate) struct Row {
    domain: String,
    sent: u64,
    deferred: u64,
    bounced: u64,
    reasons: BTreeMap<String, u64>,
    mean_seconds: Option<f64>,
    p99_seconds: Option<f64>,
    /// Recipients in the queue.
    queued: usize,
}

impl Row {
    fn new(domain: &str, figures: &Figures, queued: usize) -> Self {
        Self {
            domain: domain.to_owned(),
            sent: figures.sent,
            deferred: figures.deferred,
            bounced: figures.bounced,
            reasons: figures.reasons.clone(),
            mean_seconds: figures.mean(),
            p99_seconds: figures.quantile(0.99),
            queued,
        }
    }

    /// Number of results.
    fn total(&self) -> u64 {
        self.sent + self.deferred + self.bounced
    }

    fn line(&self) -> String {
        let mut domain: String = self.domain.chars().take(WIDTH).collect();
        if domain.len() < self.domain.len() {
            domain = domain.chars().take(WIDTH - 1).chain(['…']).collect();
        }
        format!(
            "{domain:WIDTH$}{:>8}{:>9}{:>8}{:>9}{:>9}{:>8}\n",
            self.sent,
            self.deferred,
            self.bounced,
            times::short(self.mean_seconds),
            times::short(self.p99_seconds),
            self.queued
        )
    }
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    let mut attention = Vec::new();
    let messages = queue::messages().unwrap_or_else(|error| {
        attention.push(format!("the queue is unknown: {error:#}"));
        Vec::new()
    });
    match system::units() {
        Ok(units) => attention.extend(
            units
                .iter()
                .find(|unit| unit.name == COUNTER && !unit.is_well())
                .map(|unit| format!("{COUNTER} is {}: deliveries are not counted", unit.state)),
        ),
        Err(error) => attention.push(format!("it is unknown whether {COUNTER} counts: {error:#}")),
    }
    let report = Report::read(settings, &queue::summary(&messages))?;
    let good = attention.is_empty();
    let text = if cli.json {
        let output = Output {
            report: &report,
            attention: &attention,
        };
        serde_json::to_string_pretty(&output)? + "\n"
    } else {
        attention
            .iter()
            .fold(report.text(), |text, reason| text + &entry("ATTENTION", reason))
    };
    Ok(crate::Answer::new(text, good))
}

#[derive(Serialize)]
struct Output<'a> {
    #[serde(flatten)]
    report: &'a Report,
    /// Why the figures are not complete.
    attention: &'a [String],
}

impl Report {
    /// Combines the figures of filtermail with the queue.
    pub(crate) fn read(settings: &Settings, queue: &[queue::Destination]) -> anyhow::Result<Self> {
        let file = &settings.filtermail.destinations_file;
        let known = match read(file) {
            Ok(bytes) => Some(serde_json::from_slice(&bytes).with_context(|| {
                format!(
                    "cannot use the figures in {}, which {COUNTER} replaces after the next delivery",
                    file.display()
                )
            })?),
            // Nothing has been delivered since the system started.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
            Err(error) => return Err(error).with_context(|| format!("cannot read {}", file.display())),
        };
        Ok(Self::new(known, queue, &settings.domain))
    }

    fn new(known: Option<Destinations>, queue: &[queue::Destination], own: &str) -> Self {
        let since = known.as_ref().map(|known| known.since);
        let mut known = known.unwrap_or_default();
        let mut queued: BTreeMap<&str, usize> = BTreeMap::new();
        for waiting in queue.iter().filter(|waiting| waiting.domain != own) {
            *queued.entry(&waiting.domain).or_default() += waiting.recipients;
            known.domains.entry(waiting.domain.clone()).or_default();
        }
        let row = |domain: &str, figures| Row::new(domain, figures, queued.get(domain).copied().unwrap_or(0));
        let mut destinations: Vec<_> = known
            .domains
            .iter()
            .map(|(domain, figures)| row(domain, figures))
            .collect();
        destinations.sort_by_key(|row| std::cmp::Reverse((row.total(), row.queued)));
        Self {
            since,
            destinations,
            others: Row::new(OTHERS, &known.others, 0),
        }
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        let others = Some(&self.others).filter(|others| others.total() > 0);
        self.destinations.iter().chain(others)
    }

    /// A table of the busiest destinations.
    pub(crate) fn table(&self, rows: usize) -> String {
        let mut text = heading();
        for row in self.rows().take(rows) {
            text.push_str(&row.line());
        }
        text
    }

    /// How many destinations there are, and since when.
    pub(crate) fn extent(&self) -> String {
        let number = self.destinations.len();
        match self.since {
            Some(since) => format!(
                "{number} destination(s), since {}",
                minute(i64::try_from(since).unwrap_or_default())
            ),
            None => format!("{number} destination(s)"),
        }
    }

    fn text(&self) -> String {
        let mut text = heading();
        for row in self.rows() {
            text.push_str(&row.line());
            for (reason, count) in &row.reasons {
                let _ = writeln!(text, "{count:10}  {reason}");
            }
        }
        if self.rows().next().is_none() {
            return "Nothing was sent to other domains yet.\n".to_owned();
        }
        text + &self.extent() + "\n"
    }
}

/// The file as far as its size is plausible: what is cut off is damaged.
fn read(file: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(file)?.take(MAX_FILE).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn heading() -> String {
    format!(
        "{:WIDTH$}{:>8}{:>9}{:>8}{:>9}{:>9}{:>8}\n",
        "destination", "sent", "deferred", "bounced", "mean", "p99", "queued"
    )
}

#[cfg(test)]
mod tests {
    use chatmail_core::destinations::Outcome;

    use super::*;

    fn report() -> Report {
        let mut known = Destinations {
            since: 1_760_000_000,
            ..Destinations::default()
        };
        let mut add = |domain: &str, outcomes: &[(usize, Outcome)]| {
            let figures = known.domains.entry(domain.to_owned()).or_default();
            for (times, outcome) in outcomes {
                (0..*times).for_each(|_| figures.add(outcome));
            }
        };
        add(
            "chat.example.net",
            &[
                (12_000, Outcome::Sent(0.3)),
                (200, Outcome::Sent(95.0)),
                (3, Outcome::Deferred("4.4.1 no connection".to_owned())),
                (1, Outcome::Bounced("5.1.1 no such mailbox".to_owned())),
            ],
        );
        add(
            "a.domain.with.a.name.that.is.much.too.long.for.any.table.example",
            &[(9, Outcome::Deferred("4.7.4 no TLS".to_owned()))],
        );
        known.others.add(&Outcome::Sent(4000.0));
        let waiting = |domain: &str, recipients| queue::Destination {
            domain: domain.to_owned(),
            recipients,
            reasons: BTreeMap::new(),
        };
        let queue = [
            waiting("chat.example.net", 7),
            waiting("new.example", 2),
            waiting("_a.test", 3),
        ];
        Report::new(Some(known), &queue, "_a.test")
    }

    #[test]
    fn destinations_fit_80_columns() {
        let reason = entry(
            "ATTENTION",
            &format!("{COUNTER} is failed: deliveries are not counted"),
        );
        let none = Report::new(None, &[], "_a.test").text();
        let text = report().text() + &reason + "\n" + &report().table(1) + "\n" + &none;
        crate::answer::human::check("destinations", &text);
    }

    #[test]
    fn output_for_programs() {
        insta::assert_snapshot!(serde_json::to_string_pretty(&report()).unwrap());
    }
}
