//! `chatmail status-page`: a page of the web site that says whether the relay works. A timer runs it
//! (`services.chatmail.web.statusPage`).

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_core::account::MailStore;

use crate::doctor;
use crate::times::minute;

const DAY: u64 = 24 * 60 * 60;

/// Write the status page of the web site.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// File of the page, which is replaced atomically.
    #[arg(long, value_name = "FILE")]
    output: PathBuf,
}

/// What the page says. It names nobody.
struct Facts<'a> {
    domain: &'a str,
    now: u64,
    /// Time of a message to the relay itself; none if it did not arrive.
    delivery: Option<Duration>,
    accounts: usize,
    uptime: Duration,
}

pub(crate) fn run(cli: &Cli, settings: &Settings, file: &Path) -> anyhow::Result<crate::Answer> {
    let delivery = doctor::delivery(settings, file);
    if let Err(error) = &delivery {
        eprintln!("a message to the relay itself does not arrive: {error:#}");
    }
    let store = MailStore::new(&settings.mailboxes.directory);
    let accounts = store
        .addresses()
        .with_context(|| format!("cannot list the mail store {}", store.dir().display()))?;
    let facts = Facts {
        domain: &settings.domain,
        now: chatmail_core::unix_seconds(SystemTime::now()),
        delivery: delivery.ok(),
        accounts: accounts.len(),
        uptime: uptime()?,
    };
    let fresh = cli.output.with_extension("new");
    fs::write(&fresh, page(&facts))
        .and_then(|()| fs::set_permissions(&fresh, fs::Permissions::from_mode(0o644)))
        .and_then(|()| fs::rename(&fresh, &cli.output))
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

fn page(facts: &Facts<'_>) -> String {
    let Facts { domain, accounts, .. } = facts;
    let delivery = match facts.delivery {
        Some(time) => format!("works: a message arrives after {:.2} s", time.as_secs_f64()),
        None => "does not work at the moment; the operator has been told in the log".to_owned(),
    };
    let moment = |time: u64| minute(i64::try_from(time).unwrap_or_default());
    let uptime = facts.uptime.as_secs();
    let days = uptime / DAY;
    let since = moment(facts.now.saturating_sub(uptime));
    let now = moment(facts.now);
    format!(
        "<!doctype html>\n<html lang=\"en\" dir=\"ltr\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\n\
         <meta name=\"color-scheme\" content=\"light dark\">\n<title>Status · {domain}</title>\n\
         <link rel=\"icon\" href=\"/icon.svg\" type=\"image/svg+xml\">\n\
         <link rel=\"stylesheet\" href=\"/style.css\">\n</head>\n<body>\n\
         <header>\n<a class=\"home\" href=\"/\"><img src=\"/icon.svg\" alt=\"\" width=\"32\" height=\"32\"><bdi>{domain}</bdi></a>\n</header>\n\
         <main>\n<h1>Status</h1>\n<ul>\n<li>Delivery: {delivery}.</li>\n<li>Accounts: {accounts}.</li>\n\
         <li>Uptime: {days} days, since {since}.</li>\n</ul>\n<p>As of {now}.</p>\n</main>\n</body>\n</html>\n"
    )
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
    fn the_page_says_what_works_and_names_nobody() {
        let facts = |delivery| Facts {
            domain: "chat.example.org",
            now: 1_760_000_000,
            delivery,
            accounts: 1234,
            uptime: Duration::from_secs(17 * DAY + 3700),
        };
        insta::assert_snapshot!(page(&facts(Some(Duration::from_millis(824)))));
        let broken = page(&facts(None));
        assert!(
            broken.contains("does not work") && !broken.contains('@'),
            "{broken}"
        );
    }
}
