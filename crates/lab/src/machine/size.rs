//! Limits on the processors and the memory of a whole machine, as of a small rented server.
//!
//! Hosts with the hybrid layout have these controllers in trees of version 1.

use std::fs;
use std::path::PathBuf;

use anyhow::Context as _;

use super::cgroup;

/// Period of the CPU limit in microseconds (the kernel's default).
const PERIOD: u64 = 100_000;

/// Processors and memory of a machine.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Size {
    pub(crate) processors: u64,
    /// In bytes, including the page cache.
    pub(crate) memory: u64,
}

/// What a limited machine has used since it was booted.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Used {
    /// Processes that the kernel has killed because the memory was exhausted.
    pub(crate) oom_kills: u64,
    /// Peak memory in bytes, including the page cache.
    pub(crate) peak: u64,
}

/// Names of a tree's files.
struct Names {
    memory: &'static str,
    processors: &'static str,
    peak: &'static str,
    kills: &'static str,
}

const V2: Names = Names {
    memory: "memory.max",
    processors: "cpu.max",
    peak: "memory.peak",
    kills: "memory.events",
};

const V1: Names = Names {
    memory: "memory.limit_in_bytes",
    processors: "cpu.cfs_quota_us",
    peak: "memory.max_usage_in_bytes",
    kills: "memory.oom_control",
};

/// The machine's groups for memory and for processors.
struct Groups {
    names: Names,
    memory: PathBuf,
    processors: PathBuf,
}

impl Groups {
    fn of(machine: &str) -> anyhow::Result<Self> {
        if cgroup::limits_memory()? {
            let group = cgroup::create(machine)?;
            return Ok(Self {
                names: V2,
                memory: group.clone(),
                processors: group,
            });
        }
        let tree = |controller: &str| {
            cgroup::tree_of(controller)?
                .map(|tree| tree.join(machine))
                .with_context(|| format!("this host has no cgroup controller `{controller}`"))
        };
        Ok(Self {
            names: V1,
            memory: tree("memory")?,
            processors: tree("cpu")?,
        })
    }
}

/// Sets the limits. Returns the files into which the first process of the machine writes its number.
pub(super) fn limit(machine: &str, size: Size) -> anyhow::Result<Vec<PathBuf>> {
    let groups = Groups::of(machine)?;
    let quota = size.processors * PERIOD;
    // The period of version 1 has a file of its own, with this default.
    let quota = if groups.names.processors == V2.processors {
        format!("{quota} {PERIOD}")
    } else {
        quota.to_string()
    };
    for (group, file, value) in [
        (&groups.memory, groups.names.memory, size.memory.to_string()),
        (&groups.processors, groups.names.processors, quota),
    ] {
        fs::create_dir_all(group).with_context(|| format!("cannot create the cgroup {}", group.display()))?;
        let file = group.join(file);
        fs::write(&file, value).with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok([groups.memory, groups.processors]
        .map(|group| group.join("cgroup.procs"))
        .into())
}

/// What the machine has used.
pub(super) fn used(machine: &str) -> anyhow::Result<Used> {
    let groups = Groups::of(machine)?;
    let read = |file: &str| {
        let path = groups.memory.join(file);
        fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
    };
    let kills = read(groups.names.kills)?;
    Ok(Used {
        oom_kills: field(&kills, "oom_kill").context("the kernel counts no OOM kills")?,
        peak: read(groups.names.peak)?.trim().parse()?,
    })
}

fn field(text: &str, name: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kills_are_not_other_fields() {
        let text = "oom_kill_disable 0\nunder_oom 0\noom_kill 3\n";
        assert_eq!(field(text, "oom_kill"), Some(3));
        assert_eq!(
            field("low 0\noom 1\noom_kill 2\noom_group_kill 0\n", "oom_kill"),
            Some(2)
        );
        assert_eq!(field("", "oom_kill"), None);
    }
}
