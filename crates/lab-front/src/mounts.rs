//! Finds mounted file systems (proc_pid_mountinfo(5)).

use std::path::PathBuf;

use anyhow::Context as _;

/// Mount point of the cgroup2 tree.
///
/// # Errors
///
/// When the mount table cannot be read.
pub fn cgroup2() -> anyhow::Result<Option<PathBuf>> {
    find(|kind, _| kind == "cgroup2")
}

/// Mount point of the first file system whose type and super options `wanted` accepts.
///
/// # Errors
///
/// When the mount table cannot be read.
pub fn find(wanted: impl Fn(&str, &str) -> bool) -> anyhow::Result<Option<PathBuf>> {
    let table =
        std::fs::read_to_string("/proc/self/mountinfo").context("cannot read /proc/self/mountinfo")?;
    Ok(table.lines().find_map(|line| {
        let (mount, file_system) = line.split_once(" - ")?;
        let mut fields = file_system.split(' ');
        let (kind, options) = (fields.next()?, fields.nth(1).unwrap_or_default());
        wanted(kind, options)
            .then(|| mount.split(' ').nth(4).map(PathBuf::from))
            .flatten()
    }))
}
