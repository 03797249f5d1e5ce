//! `nixos-rebuild switch` for a machine of the lab: decides what happens to each unit by the rules of NixOS'
//! switch-to-configuration, and applies the decisions in its order.
//!
//! This does not prove that NixOS decides in the same way. It runs no activation script, does not see the units of NixOS
//! itself, and has no other packages to switch to. `cargo lab nixos` runs the program itself, with all of these.
//!
//! An active unit that differs is
//!
//! - reloaded if only `X-Reload-Triggers` differs;
//! - left alone if it is a socket or a target;
//! - reloaded if it contains `X-ReloadIfChanged=true`;
//! - left alone if it contains `X-RestartIfChanged=false`;
//! - restarted in place if it contains `X-StopIfChanged=false`, or is not a service;
//! - otherwise stopped before the new system is activated, and started afterwards. If the service has an active socket,
//!   the socket is stopped with it, and only the socket is started.
//!
//! An active unit that the new system does not have is stopped. Then the files in `/etc` are replaced, users are
//! created, systemd reloads its units, and directories are created; units are reloaded before others are restarted.
//! Targets are started at the end, and with them all wanted units that are not active.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::path::Path;

use anyhow::Context as _;

use super::container;
use super::generation::{Generation, UNITS};
use super::state::Leader;

/// Keys of `[Unit]` whose changes are ignored.
const IGNORED: [&str; 11] = [
    "AllowIsolate",
    "CollectMode",
    "Description",
    "Documentation",
    "IgnoreOnIsolate",
    "OnFailure",
    "OnFailureJobMode",
    "OnSuccess",
    "RefuseManualStart",
    "RefuseManualStop",
    "SourcePath",
];
const RELOAD_TRIGGERS: &str = "X-Reload-Triggers";
/// Targets that are active on every relay.
const TARGETS: [&str; 3] = ["multi-user.target", "sockets.target", "timers.target"];

/// What happens to each unit.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub(crate) stop: BTreeSet<String>,
    pub(crate) reload: BTreeSet<String>,
    pub(crate) restart: BTreeSet<String>,
    pub(crate) start: BTreeSet<String>,
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = |units: &BTreeSet<String>| units.iter().cloned().collect::<Vec<_>>().join(" ");
        write!(
            f,
            "stops [{}], reloads [{}], restarts [{}], starts [{}]",
            list(&self.stop),
            list(&self.reload),
            list(&self.restart),
            list(&self.start)
        )
    }
}

/// Sections, their keys, and the values of each key in order.
type Unit<'a> = BTreeMap<&'a str, BTreeMap<&'a str, Vec<&'a str>>>;

fn parse(text: &str) -> Unit<'_> {
    let mut unit = Unit::new();
    let mut section = "";
    for line in text.lines() {
        if let Some(name) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            section = name;
            unit.entry(section).or_default();
        } else if let Some((key, value)) = line.split_once('=') {
            unit.entry(section)
                .or_default()
                .entry(key)
                .or_default()
                .push(value);
        }
    }
    unit
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Difference {
    None,
    Reload,
    Restart,
}

fn compare(old: &Unit<'_>, new: &Unit<'_>) -> Difference {
    let mut difference = Difference::None;
    let sections: BTreeSet<_> = old.keys().chain(new.keys()).copied().collect();
    for section in sections {
        // A section without keys differs from none at all.
        if section != "Unit" && old.contains_key(section) != new.contains_key(section) {
            return Difference::Restart;
        }
        let (old, new) = (old.get(section), new.get(section));
        let keys = old.into_iter().chain(new).flat_map(BTreeMap::keys);
        for key in keys.copied() {
            let (before, after) = (old.and_then(|old| old.get(key)), new.and_then(|new| new.get(key)));
            if before == after || (section == "Unit" && IGNORED.contains(&key)) {
                continue;
            }
            if section == "Unit" && key == RELOAD_TRIGGERS {
                // A removed trigger reloads nothing.
                if after.is_some() && difference == Difference::None {
                    difference = Difference::Reload;
                }
            } else {
                return Difference::Restart;
            }
        }
    }
    difference
}

/// A boolean in `[Service]`; the last assignment counts.
fn says(unit: &Unit<'_>, key: &str, default: bool) -> bool {
    let last = unit.get("Service").and_then(|service| service.get(key)?.last());
    last.map_or(default, |value| ["1", "yes", "true", "on"].contains(value))
}

/// Decides what happens to the active units when a machine switches from one system to another.
fn plan(old: &BTreeMap<&str, &str>, new: &BTreeMap<&str, &str>, active: &BTreeSet<String>) -> Plan {
    let mut plan = Plan::default();
    for (name, before) in old.iter().filter(|(name, _)| active.contains(**name)) {
        let Some(after) = new.get(name) else {
            plan.stop.insert((*name).to_owned());
            continue;
        };
        let after = parse(after);
        match compare(&parse(before), &after) {
            Difference::None => {}
            Difference::Reload => {
                plan.reload.insert((*name).to_owned());
            }
            Difference::Restart => plan.changed(name, &after, new, active),
        }
    }
    plan.start.extend(TARGETS.map(str::to_owned));
    plan
}

impl Plan {
    fn changed(
        &mut self,
        name: &str,
        unit: &Unit<'_>,
        new: &BTreeMap<&str, &str>,
        active: &BTreeSet<String>,
    ) {
        let owned = || name.to_owned();
        if name.ends_with(".socket") || name.ends_with(".target") {
        } else if says(unit, "X-ReloadIfChanged", false) {
            self.reload.insert(owned());
        } else if !says(unit, "X-RestartIfChanged", true) {
        } else if !says(unit, "X-StopIfChanged", true) || !name.ends_with(".service") {
            self.restart.insert(owned());
        } else {
            self.stop.insert(owned());
            let socket = name.replace(".service", ".socket");
            if active.contains(&socket) {
                self.stop.insert(socket.clone());
                if new.contains_key(socket.as_str()) {
                    self.start.insert(socket);
                    return;
                }
            }
            self.start.insert(owned());
        }
    }
}

/// Switches a machine from `old` to `new`.
pub(super) async fn switch(
    root: &Path,
    leader: Leader,
    old: &Generation,
    new: &Generation,
) -> anyhow::Result<Plan> {
    let names = [
        "systemctl",
        "list-units",
        "--state=active,activating,reloading",
        "--plain",
        "--no-legend",
    ];
    let listed = container::capture(leader, &names).await?;
    let active = listed
        .lines()
        .filter_map(|line| line.split_whitespace().next().map(str::to_owned))
        .collect();
    let plan = plan(&old.units(), &new.units(), &active);
    let systemctl = async |verb: &'static str, units: &BTreeSet<String>| {
        let mut argv = vec!["systemctl", verb, "--"];
        argv.extend(units.iter().map(String::as_str));
        if !units.is_empty() {
            container::capture(leader, &argv).await?;
        }
        anyhow::Ok(())
    };
    systemctl("stop", &plan.stop).await?;
    activate(root, old, new)?;
    for command in [
        &["systemd-sysusers"][..],
        &["systemctl", "daemon-reload"],
        &["systemd-tmpfiles", "--create", "/etc/tmpfiles.d/nixos.conf"],
    ] {
        container::capture(leader, command).await?;
    }
    systemctl("reload", &plan.reload).await?;
    systemctl("restart", &plan.restart).await?;
    systemctl("start", &plan.start).await?;
    Ok(plan)
}

/// Replaces the files of the old system, except those in the store, which stay as on NixOS.
fn activate(root: &Path, old: &Generation, new: &Generation) -> anyhow::Result<()> {
    new.write(root)?;
    let gone = old
        .files
        .keys()
        .filter(|path| path.starts_with("etc") && !new.files.contains_key(*path))
        .cloned();
    let unwanted = old
        .wants
        .iter()
        .filter(|want| !new.wants.contains(want))
        .map(|(target, unit)| Path::new(UNITS).join(format!("{target}.wants")).join(unit));
    for path in gone.chain(unwanted) {
        std::fs::remove_file(root.join(&path))
            .with_context(|| format!("cannot remove {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "[Unit]\nDescription=one\nX-Reload-Triggers=1\n[Service]\nExecStart=a\n";

    fn decided(name: &str, old: &str, new: Option<&str>, active: &[&str]) -> Plan {
        let mut before = BTreeMap::from([(name, old)]);
        let mut after: BTreeMap<_, _> = new.map(|new| (name, new)).into_iter().collect();
        for other in active.iter().filter(|other| **other != name) {
            before.insert(*other, "[Socket]\n");
            after.insert(*other, "[Socket]\n");
        }
        let active = active.iter().map(|name| (*name).to_owned()).collect();
        let mut plan = plan(&before, &after, &active);
        plan.start.retain(|unit| !unit.ends_with(".target"));
        plan
    }

    fn set(units: &[&str]) -> BTreeSet<String> {
        units.iter().map(|unit| (*unit).to_owned()).collect()
    }

    #[test]
    fn nothing_happens_to_what_is_the_same_or_does_not_run() {
        assert_eq!(
            decided("a.service", SERVICE, Some(SERVICE), &["a.service"]),
            Plan::default()
        );
        let described = SERVICE.replace("one", "two");
        assert_eq!(
            decided("a.service", SERVICE, Some(&described), &["a.service"]),
            Plan::default()
        );
        assert_eq!(
            decided("a.service", SERVICE, Some("[Service]\n"), &[]),
            Plan::default()
        );
    }

    #[test]
    fn a_trigger_reloads_and_anything_else_wins_over_it() {
        let triggered = SERVICE.replace("Triggers=1", "Triggers=2");
        assert_eq!(
            decided("a.service", SERVICE, Some(&triggered), &["a.service"]).reload,
            set(&["a.service"])
        );
        let both = triggered.replace("ExecStart=a", "ExecStart=b");
        let plan = decided("a.service", SERVICE, Some(&both), &["a.service"]);
        assert_eq!((plan.reload, plan.stop), (set(&[]), set(&["a.service"])));
    }

    #[test]
    fn a_service_says_how_it_is_changed() {
        for (says, restart, reload, stop) in [
            ("X-StopIfChanged=false", set(&["a.service"]), set(&[]), set(&[])),
            ("X-ReloadIfChanged=true", set(&[]), set(&["a.service"]), set(&[])),
            ("X-RestartIfChanged=false", set(&[]), set(&[]), set(&[])),
            ("", set(&[]), set(&[]), set(&["a.service"])),
        ] {
            let new = format!("{SERVICE}{says}\n").replace("ExecStart=a", "ExecStart=b");
            let plan = decided("a.service", SERVICE, Some(&new), &["a.service"]);
            assert_eq!(
                (plan.restart, plan.reload, plan.stop),
                (restart, reload, stop),
                "{says}"
            );
        }
    }

    #[test]
    fn a_socket_goes_with_its_service_unless_that_is_restarted_in_place() {
        let new = SERVICE.replace("ExecStart=a", "ExecStart=b");
        let active = ["a.service", "a.socket"];
        let plan = decided("a.service", SERVICE, Some(&new), &active);
        assert_eq!((plan.stop, plan.start), (set(&active), set(&["a.socket"])));
        let new = format!("{new}X-StopIfChanged=false\n");
        let plan = decided("a.service", SERVICE, Some(&new), &active);
        assert_eq!(
            (plan.stop, plan.start, plan.restart),
            (set(&[]), set(&[]), set(&["a.service"]))
        );
    }

    #[test]
    fn what_is_gone_is_stopped() {
        assert_eq!(
            decided("a.service", SERVICE, None, &["a.service"]).stop,
            set(&["a.service"])
        );
    }
}
