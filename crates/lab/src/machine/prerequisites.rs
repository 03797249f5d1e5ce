//! What the lab needs on the host, checked before anything is started.

use std::path::Path;

use anyhow::bail;

use super::cgroup;

/// Programs, each with the Debian package that holds it.
const PROGRAMS: [(&str, &str); 7] = [
    ("cc", "gcc libc6-dev"),
    ("ip", "iproute2"),
    ("mmdebstrap", "mmdebstrap"),
    ("nsenter", "util-linux"),
    ("setsid", "util-linux"),
    ("systemd-nspawn", "systemd-container"),
    ("unshare", "util-linux"),
];

/// Keys that Debian's archive is signed with, and the package that holds them.
const KEYRING: (&str, &str) = (
    "/usr/share/keyrings/debian-archive-keyring.gpg",
    "debian-archive-keyring",
);

/// Fails with everything that is missing and the command that installs it.
pub(super) fn check() -> anyhow::Result<()> {
    if !nix::unistd::geteuid().is_root() {
        bail!("the lab starts containers and needs root: run it again as root, for example with `sudo -E`");
    }
    let keyring = (!Path::new(KEYRING.0).exists()).then_some(KEYRING);
    install(missing(&PROGRAMS).chain(keyring))?;
    if cgroup::mount_point()?.is_none() {
        bail!("no cgroup2 file system is mounted; mount it with: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    }
    Ok(())
}

/// Fails when one of these programs, each with its Debian package, is missing.
pub(crate) fn programs(programs: &[(&str, &str)]) -> anyhow::Result<()> {
    install(missing(programs))
}

fn missing<'a>(programs: &'a [(&'a str, &'a str)]) -> impl Iterator<Item = (&'a str, &'a str)> {
    programs.iter().copied().filter(|(program, _)| !on_path(program))
}

/// Fails with how all of this is installed; passes when it is nothing.
fn install<'a>(missing: impl Iterator<Item = (&'a str, &'a str)>) -> anyhow::Result<()> {
    let (missing, mut packages): (Vec<_>, Vec<_>) = missing.unzip();
    packages.sort_unstable();
    packages.dedup();
    if !missing.is_empty() {
        bail!(
            "missing: {}\ninstall with: apt-get install {}",
            missing.join(", "),
            packages.join(" ")
        );
    }
    Ok(())
}

/// Whether a program is found by its name.
fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}
