//! `chatmail status-page`: what the status page of the web site says about the relay. A timer runs it
//! (`services.chatmail.web.statusPage`), and nginx puts the values into the page in the visitor's language.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_core::account::MailStore;
use chatmail_core::replace::Replacement;

use crate::times::minute;
use crate::{answer, doctor};

const DAY: u64 = 24 * 60 * 60;

/// Write the values of the status page of the web site.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// File of the values, which is replaced atomically.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// What the page says. It names nobody.
struct Facts {
    now: u64,
    /// Time of a message to the relay itself; none if it did not arrive.
    delivery: Option<Duration>,
    accounts: usize,
    uptime: Duration,
}

pub(crate) fn run(cli: &Cli, settings: &Settings, file: &Path) -> anyhow::Result<crate::Answer> {
    let delivery = doctor::delivery(settings, file);
    if let Err(error) = &delivery {
        answer::complain(format_args!(
            "a message to the relay itself does not arrive: {error:#}"
        ));
    }
    let store = MailStore::new(&settings.mailboxes.directory);
    let accounts = store
        .addresses()
        .with_context(|| format!("cannot list the mail store {}", store.dir().display()))?;
    let facts = Facts {
        now: chatmail_core::unix_seconds(SystemTime::now()),
        delivery: delivery.ok(),
        accounts: accounts.len(),
        uptime: uptime()?,
    };
    Replacement::with_mode(0o644)
        .write(&cli.output, values(&facts).as_bytes())
        .with_context(|| format!("cannot write {}", cli.output.display()))?;
    Ok(String::new().into())
}

/// Time from the start of the system to that of this process. `/proc/uptime` is hidden from sandboxed units.
fn uptime() -> anyhow::Result<Duration> {
    let text = fs::read_to_string("/proc/self/stat").context("cannot read /proc/self/stat")?;
    started(&text).context("cannot parse /proc/self/stat")
}

/// Field 22 of proc_pid_stat(5), in hundredths of a second. The name of the program, field 2, can contain anything.
fn started(stat: &str) -> Option<Duration> {
    let (_, rest) = stat.rsplit_once(')')?;
    let ticks: u64 = rest.split_whitespace().nth(19)?.parse().ok()?;
    Some(Duration::from_millis(ticks.checked_mul(10)?))
}

/// Variables for the server-side includes of nginx. Times are in UTC, numbers have no unit: words are in the page.
fn values(facts: &Facts) -> String {
    let delivery = facts.delivery.map(|time| format!("{:.2}", time.as_secs_f64()));
    let failed = if delivery.is_none() { "yes" } else { "" };
    let moment = |time: u64| minute(i64::try_from(time).unwrap_or_default());
    let uptime = facts.uptime.as_secs();
    let values = [
        ("delivery", delivery.unwrap_or_default()),
        ("failed", failed.to_owned()),
        ("accounts", facts.accounts.to_string()),
        ("days", (uptime / DAY).to_string()),
        ("since", moment(facts.now.saturating_sub(uptime))),
        ("time", moment(facts.now)),
    ];
    values
        .iter()
        .map(|(name, value)| format!("<!--# set var=\"status_{name}\" value=\"{value}\" -->\n"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_of_a_process() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 12345 1 2 3";
        assert_eq!(started(stat), Some(Duration::from_millis(123_450)));
        assert_eq!(started("7 (a) S 1"), None);
        uptime().unwrap();
    }

    #[test]
    fn the_values_say_what_works_and_name_nobody() {
        let facts = |delivery| Facts {
            now: 1_760_000_000,
            delivery,
            accounts: 1234,
            uptime: Duration::from_secs(17 * DAY + 3700),
        };
        insta::assert_snapshot!(values(&facts(Some(Duration::from_millis(824)))));
        let broken = values(&facts(None));
        assert!(
            broken.contains("status_delivery\" value=\"\"")
                && broken.contains("status_failed\" value=\"yes\""),
            "{broken}"
        );
    }
}
