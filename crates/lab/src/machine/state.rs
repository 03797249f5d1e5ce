//! The running machines, stored in a file so that every `cargo lab` finds them.

use std::fs;
use std::path::Path;

use anyhow::Context as _;
use mailtest::topology::Topology;
use serde::{Deserialize, Serialize};

use lab_front::paths::Paths;

/// A running lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct State {
    /// Hash of what the relays were made from; `cargo lab` attaches only to a lab of the same build.
    pub(super) build: String,
    /// Where the relays are.
    pub(super) topology: Topology,
    /// All machines, including the DNS server.
    pub(super) machines: Vec<Machine>,
}

/// One running machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Machine {
    /// Name of the machine, as in `cargo lab shell NAME`.
    pub(super) name: String,
    /// The machine's first process.
    pub(super) leader: Leader,
}

/// Identifies a process even if the kernel reuses its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Leader {
    /// Process ID on the host.
    pub(super) pid: u32,
    /// Clock ticks between the boot of the host and the start of the process.
    pub(super) started: u64,
}

impl Leader {
    /// The process that currently has this ID.
    pub(super) fn of(pid: u32) -> anyhow::Result<Self> {
        let started = start_time(pid).with_context(|| format!("process {pid} has ended"))?;
        Ok(Self { pid, started })
    }

    /// Whether the process is still running.
    pub(super) fn alive(self) -> bool {
        start_time(self.pid) == Some(self.started)
    }
}

/// Field 22 of proc_pid_stat(5). The name in parentheses before it can contain any characters.
fn start_time(pid: u32) -> Option<u64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19)?.parse().ok()
}

impl State {
    /// The running lab, or `None` if no lab is running or any of its machines has ended.
    pub(super) fn load(paths: &Paths) -> Option<Self> {
        let text = fs::read_to_string(paths.state()).ok()?;
        let state: Self = serde_json::from_str(&text).ok()?;
        state
            .machines
            .iter()
            .all(|machine| machine.leader.alive())
            .then_some(state)
    }

    /// Stores the state atomically.
    pub(super) fn save(&self, paths: &Paths) -> anyhow::Result<()> {
        write(&paths.state(), &serde_json::to_string_pretty(self)?)
    }

    /// The first process of a machine.
    pub(super) fn leader(&self, name: &str) -> anyhow::Result<Leader> {
        let machine = self
            .machines
            .iter()
            .find(|machine| machine.name == name)
            .with_context(|| {
                let names: Vec<_> = self
                    .machines
                    .iter()
                    .map(|machine| machine.name.as_str())
                    .collect();
                format!("no machine `{name}`; the machines are {}", names.join(", "))
            })?;
        Ok(machine.leader)
    }
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    fs::write(&new, text).with_context(|| format!("cannot write {}", new.display()))?;
    fs::rename(&new, path).with_context(|| format!("cannot replace {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_told_apart_by_its_start() {
        let own = Leader::of(std::process::id()).unwrap();
        assert!(own.alive());
        assert!(
            !Leader {
                started: own.started + 1,
                ..own
            }
            .alive()
        );
    }
}
