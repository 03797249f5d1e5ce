//! Stops and starts the services that use the state of the relay.

use std::collections::HashSet;
use std::process::Command;

use anyhow::{Context as _, ensure};

/// Units to stop, in this order: first whatever changes state by itself, then new mail, then clients, then the services
/// behind Dovecot.
const STOP: [&[&str]; 4] = [
    &[
        "restic-backups-chatmail.timer",
        "restic-backups-chatmail.service",
        "chatmail-expire.timer",
        "chatmail-expire.service",
    ],
    &["postfix.service"],
    &["dovecot.service"],
    &[
        "doveauth.socket",
        "doveauth.service",
        "lastlogin.socket",
        "lastlogin.service",
        "chatmail-metadata.socket",
        "chatmail-metadata.service",
    ],
];

/// Units to start, in this order. Those that run meanwhile get the restored keys and secrets.
const START: [&[&str]; 5] = [
    &["doveauth.socket", "lastlogin.socket", "chatmail-metadata.socket"],
    &[
        "nginx.service",
        "opendkim.service",
        "chatmail-turn.service",
        "chatmail-metadata.service",
        "doveauth.service",
        "lastlogin.service",
    ],
    &["dovecot.service"],
    &["postfix.service"],
    &["chatmail-expire.timer", "restic-backups-chatmail.timer"],
];

/// Stops the services that use the state.
pub(crate) fn stop() -> anyhow::Result<()> {
    run("stop", &STOP)
}

/// Starts them with the state as it is now.
pub(crate) fn start() -> anyhow::Result<()> {
    run("restart", &START)
}

fn run(verb: &str, steps: &[&[&str]]) -> anyhow::Result<()> {
    let names: Vec<&str> = steps.concat();
    let output = Command::new("systemctl")
        .args(["show", "--property=Id", "--property=LoadState"])
        .args(&names)
        .output()
        .context("cannot run systemctl")?;
    let there = loaded(&String::from_utf8_lossy(&output.stdout));
    for step in steps {
        let units: Vec<&str> = step
            .iter()
            .copied()
            .filter(|unit| there.contains(*unit))
            .collect();
        if units.is_empty() {
            continue;
        }
        systemctl(&[&[verb][..], &units].concat())?;
    }
    Ok(())
}

/// Runs systemctl, which must succeed.
pub(crate) fn systemctl(words: &[&str]) -> anyhow::Result<()> {
    let output = Command::new("systemctl")
        .args(words)
        .output()
        .context("cannot run systemctl")?;
    ensure!(
        output.status.success(),
        "systemctl {} failed with {}: {}",
        words.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

/// Names of the units that exist on this host.
fn loaded(text: &str) -> HashSet<String> {
    let unit = |block: &str| {
        let value = |key: &str| block.lines().find_map(|line| line.strip_prefix(key));
        (value("LoadState=") == Some("loaded"))
            .then(|| value("Id=").map(str::to_owned))
            .flatten()
    };
    text.split("\n\n").filter_map(unit).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_loaded_units_exist() {
        let text = "Id=a.service\nLoadState=loaded\n\nId=b.service\nLoadState=not-found\n\nLoadState=loaded\nId=c.timer\n";
        let mut units: Vec<_> = loaded(text).into_iter().collect();
        units.sort();
        assert_eq!(units, ["a.service", "c.timer"]);
        assert!(loaded("").is_empty());
    }

    #[test]
    fn everything_that_stops_starts_again() {
        let started = START.concat();
        for unit in STOP.concat() {
            // Timers start these.
            let job = unit == "chatmail-expire.service" || unit == "restic-backups-chatmail.service";
            assert!(job || started.contains(&unit), "{unit}");
        }
    }
}
