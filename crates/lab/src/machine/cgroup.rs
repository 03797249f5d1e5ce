//! One cgroup per machine: it contains every process that the machine starts, so that all of them can be killed.
//!
//! The groups are directly below the root of the cgroup2 tree, next to those of an init system, so the lab also works on
//! hosts without one. On hosts with the hybrid layout, `systemd-nspawn` mirrors them into the tree `name=systemd`.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Read as _, Seek as _};
use std::os::fd::AsFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use lab_front::mounts;
use nix::poll::{PollFd, PollFlags, PollTimeout};

/// Name of the lab's group; the machines' groups are in it.
const GROUP: &str = "chatmail-lab";
/// How long the kernel may take to end killed processes.
const KILL_DEADLINE: Duration = Duration::from_secs(20);
/// Controllers that units in the machines need for their limits.
const CONTROLLERS: [&str; 3] = ["cpu", "memory", "pids"];

/// The lab's group in the cgroup2 tree.
fn group() -> anyhow::Result<PathBuf> {
    Ok(mounts::cgroup2()?
        .context("no cgroup2 file system is mounted")?
        .join(GROUP))
}

/// Creates the group of a machine. The caller moves the first process in by writing to `cgroup.procs`.
pub(super) fn create(machine: &str) -> anyhow::Result<PathBuf> {
    let group = group()?;
    let path = group.join(machine);
    fs::create_dir_all(&path).with_context(|| format!("cannot create the cgroup {}", path.display()))?;
    // Without systemd on the host, no controller is enabled for our group yet. Errors are ignored because a host may
    // lack some of them.
    if let Some(root) = group.parent() {
        for controller in CONTROLLERS {
            let _ = fs::write(root.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
    let available = fs::read_to_string(group.join("cgroup.controllers")).unwrap_or_default();
    for controller in CONTROLLERS {
        if available.split_whitespace().any(|name| name == controller) {
            fs::write(group.join("cgroup.subtree_control"), format!("+{controller}"))
                .with_context(|| format!("cannot enable the controller {controller} for the machines"))?;
        }
    }
    Ok(path)
}

/// Kills the remaining processes of a machine, waits until they have ended and removes its group, so that the machine
/// can be booted again.
pub(super) fn end(machine: &str) -> anyhow::Result<()> {
    let group = group()?.join(machine);
    if group.exists() {
        kill(&group)?;
        remove(&group)?;
    }
    remove_others(Some(machine))
}

/// Our group in the tree of version 1 that has this controller. systemd-nspawn mirrors its groups into `name=systemd`.
pub(super) fn tree_of(controller: &str) -> anyhow::Result<Option<PathBuf>> {
    let mount =
        mounts::find(|kind, options| kind == "cgroup" && options.split(',').any(|one| one == controller))?;
    Ok(mount.map(|path| path.join(GROUP)))
}

/// Removes the groups of a machine, or all of ours, from the trees of version 1.
fn remove_others(machine: Option<&str>) -> anyhow::Result<()> {
    for controller in ["name=systemd", "memory", "cpu"] {
        let Some(group) = tree_of(controller)? else {
            continue;
        };
        let group = machine.map_or(group.clone(), |machine| group.join(machine));
        if group.exists() {
            remove(&group)?;
        }
    }
    Ok(())
}

/// Directory of the running lab, from the command lines of its containers: their file trees are in it.
pub(super) fn folder() -> anyhow::Result<Option<PathBuf>> {
    let group = group()?;
    if !group.exists() {
        return Ok(None);
    }
    for folder in folders(&group)? {
        // A group can disappear at any time.
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        for pid in processes.lines() {
            let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            if let Some(folder) = folder_in(&line) {
                return Ok(Some(folder));
            }
        }
    }
    Ok(None)
}

/// The lab's directory in the command line of systemd-nspawn.
fn folder_in(line: &[u8]) -> Option<PathBuf> {
    let mut arguments = line.split(|byte| *byte == 0);
    if !arguments.next()?.ends_with(b"systemd-nspawn") {
        return None;
    }
    let machine = arguments.find_map(|argument| argument.strip_prefix(b"--directory="))?;
    Path::new(OsStr::from_bytes(machine))
        .parent()?
        .parent()
        .map(Path::to_owned)
}

/// CPU time that all machines have used, or `None` if it cannot be read.
pub(super) fn total_cpu_time() -> Option<Duration> {
    cpu_time(&fs::read_to_string(group().ok()?.join("cpu.stat")).ok()?)
}

/// Whether `MemoryMax=` takes effect in the machines: only if the memory controller is in the host's cgroup2 tree. On
/// hosts with the hybrid layout, it is in the tree of version 1, which systemd in the machines does not use.
pub(super) fn limits_memory() -> anyhow::Result<bool> {
    let controllers = mounts::cgroup2()?
        .context("no cgroup2 file system is mounted")?
        .join("cgroup.controllers");
    let text =
        fs::read_to_string(&controllers).with_context(|| format!("cannot read {}", controllers.display()))?;
    Ok(text.split_whitespace().any(|name| name == "memory"))
}

/// Kills all processes of all machines, waits until they have ended and removes the groups.
pub(super) fn kill_all() -> anyhow::Result<()> {
    let group = group()?;
    if group.exists() {
        kill(&group)?;
        remove(&group)?;
    }
    remove_others(None)
}

fn kill(group: &Path) -> anyhow::Result<()> {
    let mut events = fs::File::open(group.join("cgroup.events")).context("cannot open cgroup.events")?;
    let deadline = Instant::now() + KILL_DEADLINE;
    loop {
        let mut text = String::new();
        events.rewind()?;
        events.read_to_string(&mut text)?;
        if text.lines().any(|line| line == "populated 0") {
            return Ok(());
        }
        if fs::write(group.join("cgroup.kill"), "1").is_err() {
            // Kernels before 5.14 have no `cgroup.kill`.
            kill_each(group)?;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            bail!("processes in {} do not end", group.display());
        }
        let mut poll = [PollFd::new(events.as_fd(), PollFlags::POLLPRI)];
        let wait = left.min(Duration::from_secs(1));
        match nix::poll::poll(
            &mut poll,
            PollTimeout::try_from(wait).unwrap_or(PollTimeout::ZERO),
        ) {
            // SIGCHLD interrupts the wait.
            Ok(_) | Err(nix::errno::Errno::EINTR) => (),
            Err(error) => return Err(error).context("cannot wait for the end of the machines"),
        }
    }
}

fn kill_each(group: &Path) -> anyhow::Result<()> {
    for folder in folders(group)? {
        for pid in fs::read_to_string(folder.join("cgroup.procs"))?.lines() {
            let pid = nix::unistd::Pid::from_raw(pid.parse()?);
            match nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL) {
                Ok(()) | Err(nix::errno::Errno::ESRCH) => (),
                Err(error) => bail!("cannot kill process {pid}: {error}"),
            }
        }
    }
    Ok(())
}

/// Removes a group and all groups below it, deepest first.
fn remove(group: &Path) -> anyhow::Result<()> {
    for folder in folders(group)?.iter().rev() {
        match fs::remove_dir(folder) {
            Ok(()) => (),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (),
            Err(error) => bail!("cannot remove the cgroup {}: {error}", folder.display()),
        }
    }
    Ok(())
}

/// A group and all groups below it, parents first.
fn folders(group: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = vec![group.to_owned()];
    let mut next = 0;
    while let Some(folder) = found.get(next).cloned() {
        for entry in fs::read_dir(&folder)?.flatten() {
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                found.push(entry.path());
            }
        }
        next += 1;
    }
    Ok(found)
}

/// Resources that a unit has used.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// CPU time since the unit was started, including that of ended processes.
    pub(crate) cpu: Duration,
    /// Memory of its processes in bytes; each counts its share of shared memory (PSS).
    pub(crate) memory: u64,
}

/// Resources that each service of a machine has used, by its name without `.service`.
pub(super) fn usage(machine: &str) -> anyhow::Result<BTreeMap<String, Usage>> {
    let mut units = BTreeMap::new();
    for folder in folders(&group()?.join(machine))? {
        let Some(name) = folder.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        if !name.ends_with(".service") {
            continue;
        }
        // A unit can end at any time.
        let Ok(cpu) = fs::read_to_string(folder.join("cpu.stat")) else {
            continue;
        };
        let processes = fs::read_to_string(folder.join("cgroup.procs")).unwrap_or_default();
        let usage = Usage {
            cpu: cpu_time(&cpu).with_context(|| format!("no CPU time in {}", folder.display()))?,
            memory: processes.lines().filter_map(proportional_memory).sum(),
        };
        units.insert(name.trim_end_matches(".service").to_owned(), usage);
    }
    Ok(units)
}

fn cpu_time(stat: &str) -> Option<Duration> {
    let used = stat.lines().find_map(|line| line.strip_prefix("usage_usec "))?;
    Some(Duration::from_micros(used.parse().ok()?))
}

/// PSS in bytes, or `None` if the process has ended.
fn proportional_memory(pid: &str) -> Option<u64> {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).ok()?;
    let kibibytes = rollup.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kibibytes: u64 = kibibytes.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kibibytes * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_is_read() {
        let stat = "usage_usec 1500\nuser_usec 1000\nsystem_usec 500\n";
        assert_eq!(cpu_time(stat), Some(Duration::from_micros(1500)));
        assert_eq!(cpu_time(""), None);
    }

    #[test]
    fn this_process_has_memory() {
        assert!(proportional_memory("self").unwrap() > 0);
        assert_eq!(proportional_memory("0"), None);
    }

    #[test]
    fn the_directory_of_a_lab_is_in_the_command_line_of_its_containers() {
        let line = b"systemd-nspawn\0--quiet\0--machine\0a\0--directory=/srv/lab/machines/a\0";
        assert_eq!(folder_in(line), Some(PathBuf::from("/srv/lab")));
        assert_eq!(
            folder_in(b"/usr/bin/systemd-nspawn\0--directory=/x/machines/a"),
            Some(PathBuf::from("/x"))
        );
        assert_eq!(folder_in(b"sh\0--directory=/srv/lab/machines/a\0"), None);
        assert_eq!(folder_in(b""), None);
    }
}
