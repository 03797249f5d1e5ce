//! Formats a report as text, JSON and Prometheus metrics.

use std::fmt::Write as _;

use chatmail_core::maildir::Part;
use serde::Serialize;

use crate::output::utc;
use crate::report::{Accounts, DAYS, Report, SIZES, Scope};

/// The report as text, in the layout of the reference relay.
pub fn text(report: &Report, scope: &Scope) -> String {
    let mut out = String::new();
    let total = report.message_bytes + report.extra_bytes;
    let messages = report.message_bytes;
    // Writing to a string cannot fail.
    let _ = writeln!(out, "\n## Mailbox storage use analysis");
    let _ = writeln!(out, "Mailbox data total size: {}", human(total));
    let _ = writeln!(out, "Messages total size    : {}", human(messages));
    let extra_percent = if total == 0 {
        100.0
    } else {
        percent(report.extra_bytes, total)
    };
    let _ = writeln!(
        out,
        "Extra files : {} ({extra_percent:.2}%)\n",
        human(report.extra_bytes)
    );
    if scope.min_login_age > 0 {
        let _ = writeln!(
            out,
            "### Message storage for {} days old logins",
            scope.min_login_age
        );
    }
    let prefix = scope
        .part
        .map(|part| format!("[{}] ", part_name(part)))
        .unwrap_or_default();
    for (size, sum) in SIZES.into_iter().zip(report.by_size) {
        let _ = writeln!(
            out,
            "{prefix}larger than {}: {} ({:.2}%), {} msgs",
            human(size),
            human(sum.bytes),
            percent(sum.bytes, messages),
            sum.count
        );
    }
    let accounts = report.accounts;
    let _ = writeln!(out, "\n## Login stats, from date reference {}", utc(scope.now));
    let _ = writeln!(out, "all:     {:>6}", accounts.all);
    let _ = writeln!(out, "non-ci:  {:>6}", accounts.users());
    let _ = writeln!(out, "ci:      {:>6}", accounts.ci);
    for (days, active) in DAYS.into_iter().zip(report.active) {
        let share = match accounts.users() {
            0 => "100%".to_owned(),
            users => format!("({:.2}%)", percent(active, users)),
        };
        let _ = writeln!(out, "last {days:3} days: {active:>6} {share}");
    }
    out
}

/// The report as one JSON object on one line.
pub fn json(report: &Report, scope: &Scope) -> serde_json::Result<String> {
    #[derive(Serialize)]
    struct Json {
        now: i64,
        min_login_age: u32,
        part: Option<&'static str>,
        storage_bytes: Storage,
        messages: Vec<Size>,
        accounts: Count,
        accounts_active: Vec<Active>,
    }
    #[derive(Serialize)]
    struct Storage {
        messages: u64,
        extra: u64,
        total: u64,
    }
    #[derive(Serialize)]
    struct Size {
        min_size: u64,
        bytes: u64,
        count: u64,
    }
    #[derive(Serialize)]
    struct Count {
        all: u64,
        ci: u64,
        user: u64,
    }
    #[derive(Serialize)]
    struct Active {
        days: u16,
        accounts: u64,
    }
    serde_json::to_string(&Json {
        now: scope.now,
        min_login_age: scope.min_login_age,
        part: scope.part.map(part_name),
        storage_bytes: Storage {
            messages: report.message_bytes,
            extra: report.extra_bytes,
            total: report.message_bytes + report.extra_bytes,
        },
        messages: SIZES
            .into_iter()
            .zip(report.by_size)
            .map(|(min_size, sum)| Size {
                min_size,
                bytes: sum.bytes,
                count: sum.count,
            })
            .collect(),
        accounts: Count {
            all: report.accounts.all,
            ci: report.accounts.ci,
            user: report.accounts.users(),
        },
        accounts_active: DAYS
            .into_iter()
            .zip(report.active)
            .map(|(days, accounts)| Active { days, accounts })
            .collect(),
    })
    .map(|line| line + "\n")
}

/// The report in Prometheus' text format, with the metric names of the reference relay.
pub fn prometheus(report: &Report) -> String {
    let mut out = Metrics::default();
    out.head("chatmail_storage_bytes", "Mailbox storage in bytes.");
    out.value("chatmail_storage_bytes", "kind", "messages", report.message_bytes);
    out.value("chatmail_storage_bytes", "kind", "extra", report.extra_bytes);
    let total = report.message_bytes + report.extra_bytes;
    out.value("chatmail_storage_bytes", "kind", "total", total);

    out.head("chatmail_messages_bytes", "Sum of msg bytes >= threshold.");
    for (size, sum) in SIZES.into_iter().zip(report.by_size) {
        out.value("chatmail_messages_bytes", "min_size", size, sum.bytes);
    }
    out.head("chatmail_messages_count", "Number of msgs >= size threshold.");
    for (size, sum) in SIZES.into_iter().zip(report.by_size) {
        out.value("chatmail_messages_count", "min_size", size, sum.count);
    }

    let accounts = report.accounts;
    out.head("chatmail_accounts", "Number of accounts.");
    out.value("chatmail_accounts", "kind", "all", accounts.all);
    out.value("chatmail_accounts", "kind", "ci", accounts.ci);
    out.value("chatmail_accounts", "kind", "user", accounts.users());

    out.head(
        "chatmail_accounts_active",
        "Non-CI accounts active within N days.",
    );
    for (days, active) in DAYS.into_iter().zip(report.active) {
        out.value("chatmail_accounts_active", "days", days, active);
    }
    out.0
}

/// The three numbers of accounts that relays publish on their web site.
pub fn account_metrics(accounts: Accounts) -> String {
    let mut out = Metrics::default();
    for (name, help, value) in [
        ("accounts", "Total number of accounts.", accounts.all),
        ("ci_accounts", "Number of CI accounts.", accounts.ci),
        ("nonci_accounts", "Number of non-CI accounts.", accounts.users()),
    ] {
        out.head(name, help);
        let _ = writeln!(out.0, "{name} {value}");
    }
    out.0
}

#[derive(Default)]
struct Metrics(String);

impl Metrics {
    fn head(&mut self, name: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} gauge");
    }

    fn value(&mut self, name: &str, label: &str, label_value: impl std::fmt::Display, value: u64) {
        let _ = writeln!(self.0, "{name}{{{label}=\"{label_value}\"}} {value}");
    }
}

/// Name of a part, on disk and in `--mdir`.
pub fn part_name(part: Part) -> &'static str {
    match part {
        Part::Cur => "cur",
        Part::New => "new",
        Part::Tmp => "tmp",
    }
}

/// Formats a size in decimal kilobytes, megabytes or gigabytes: five characters and the unit.
fn human(bytes: u64) -> String {
    let size = bytes as f64;
    match bytes {
        0..10_000 => format!("{:5.2}K", size / 1e3),
        10_000..1_000_000 => format!("{:5.0}K", size / 1e3),
        1_000_000..1_000_000_000 => format!("{:5}M", bytes / 1_000_000),
        _ => format!("{:5.2}G", size / 1e9),
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    if whole == 0 {
        return 0.0;
    }
    part as f64 / whole as f64 * 100.0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::Messages;

    const SCOPE: Scope = Scope {
        now: 1_800_000_000,
        min_login_age: 0,
        part: None,
    };

    fn report() -> Report {
        Report {
            message_bytes: 1_234_567_890,
            extra_bytes: 43_210_000,
            by_size: [3, 2, 1, 1, 0, 0, 0].map(|count| Messages {
                bytes: count * 400_000_000,
                count,
            }),
            accounts: Accounts { all: 12_345, ci: 45 },
            active: [1, 20, 300, 4000, 5000, 6000, 12_300],
        }
    }

    #[test]
    fn report_for_people() {
        insta::assert_snapshot!(text(&report(), &SCOPE));
    }

    #[test]
    fn report_on_some_messages() {
        let scope = Scope {
            min_login_age: 30,
            part: Some(Part::Cur),
            ..SCOPE
        };
        insta::assert_snapshot!(text(&report(), &scope));
    }

    #[test]
    fn report_on_an_empty_store() {
        insta::assert_snapshot!(text(&Report::default(), &SCOPE));
    }

    #[test]
    fn report_for_programs() {
        insta::assert_snapshot!(json(&report(), &SCOPE).unwrap());
    }

    #[test]
    fn report_for_prometheus() {
        insta::assert_snapshot!(prometheus(&report()));
    }

    #[test]
    fn account_counts_for_the_web_site() {
        insta::assert_snapshot!(account_metrics(report().accounts));
    }

    #[test]
    fn sizes_keep_their_width() {
        let sizes = [0, 9_999, 10_000, 999_499, 1_000_000, 999_999_999, 1_000_000_000];
        assert_eq!(
            sizes.map(human),
            [
                " 0.00K", "10.00K", "   10K", "  999K", "    1M", "  999M", " 1.00G"
            ]
        );
    }
}
