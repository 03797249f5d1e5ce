//! Limits of the host that all relays of the lab share.

use std::fs;

use anyhow::Context as _;

use super::cgroup;

/// Maximum number of inotify instances per user ID of the host. Dovecot needs one for each session that waits for mail,
/// and users have the same IDs on all relays. A session without one polls its mailbox at intervals, without a log line.
const INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Enough for the sessions of five relays in a load test.
const ENOUGH: u32 = 4096;

/// Raises the limits if possible, and returns lines to print about them.
pub(super) fn raise() -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();
    let text = fs::read_to_string(INSTANCES).with_context(|| format!("cannot read {INSTANCES}"))?;
    let before = text
        .trim()
        .parse()
        .with_context(|| format!("{INSTANCES} contains no number"))?;
    if before < ENOUGH {
        said.push(raised(before, fs::write(INSTANCES, ENOUGH.to_string()).is_ok()));
    }
    if !cgroup::limits_memory()? {
        said.push(
            "This host's cgroup2 tree has no memory controller, so MemoryMax= has no effect in the relays."
                .to_owned(),
        );
    }
    Ok(said)
}

fn raised(before: u32, done: bool) -> String {
    if done {
        format!("Raised fs.inotify.max_user_instances, which all relays share, from {before} to {ENOUGH}.")
    } else {
        format!(
            "fs.inotify.max_user_instances is {before}, and all relays share it. With many IMAP sessions, clients are \
             notified late of new mail. To raise it: sysctl fs.inotify.max_user_instances={ENOUGH}"
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_cannot_be_raised_is_named_with_the_command() {
        assert!(raised(128, true).contains("from 128 to 4096"));
        assert!(raised(128, false).ends_with("sysctl fs.inotify.max_user_instances=4096"));
    }
}
