//! Limits of the host that all relays of the lab share.

use std::fs;

use anyhow::Context as _;

use super::cgroup;

/// How many inotify instances a user of the host may have. Every relay's Dovecot has one for each session that waits for
/// mail, and the users of all relays have the same numbers; a session that gets none looks for mail at intervals, and
/// nothing says so.
const INSTANCES: &str = "/proc/sys/fs/inotify/max_user_instances";
/// Enough for the sessions of five relays in a load test.
const ENOUGH: u32 = 4096;

/// Raises what can be raised, and returns a line for each thing that a person should know.
pub(super) fn raise() -> anyhow::Result<Vec<String>> {
    let mut said = Vec::new();
    let text = fs::read_to_string(INSTANCES).with_context(|| format!("cannot read {INSTANCES}"))?;
    let before = text
        .trim()
        .parse()
        .with_context(|| format!("{INSTANCES} holds no number"))?;
    if before < ENOUGH {
        said.push(raised(before, fs::write(INSTANCES, ENOUGH.to_string()).is_ok()));
    }
    if !cgroup::limits_memory()? {
        said.push(
            "The cgroups of this host have no memory controller: MemoryMax of the relays' units has no effect.".to_owned(),
        );
    }
    Ok(said)
}

fn raised(before: u32, done: bool) -> String {
    if done {
        format!("fs.inotify.max_user_instances raised from {before} to {ENOUGH}: the relays share it.")
    } else {
        format!(
            "fs.inotify.max_user_instances is {before}, and the relays share it: with many IMAP sessions, new mail is \
             announced late. Raise it with: sysctl fs.inotify.max_user_instances={ENOUGH}"
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
