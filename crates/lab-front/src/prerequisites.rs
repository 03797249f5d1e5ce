//! Finds and installs what the lab needs on this computer.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::bail;

use crate::mounts;
use crate::paths::Paths;
use crate::progress::Progress;
use crate::tasks::{self, Task};

/// The option to report missing packages instead of installing them.
pub const NO_INSTALL: &str = "--no-install";

/// What a command of the lab needs installed, by purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// Compiles Rust.
    Compiler,
    /// Runs relays in containers.
    Relays,
    /// Runs Delta Chat, which comes from PyPI.
    DeltaChat,
    /// Runs all scenarios that need no browser.
    Scenarios,
    /// Runs the scenarios with a browser.
    Browser,
}

/// How to detect a prerequisite.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// A program in `PATH`.
    Program(&'static str),
    /// A file.
    File(&'static str),
    /// A Python module.
    PythonModule(&'static str),
}

/// Something that a Debian package provides.
#[derive(Debug, Clone, Copy)]
struct Item {
    need: Need,
    probe: Probe,
    packages: &'static str,
    why: &'static str,
}

const fn item(need: Need, probe: Probe, packages: &'static str, why: &'static str) -> Item {
    Item {
        need,
        probe,
        packages,
        why,
    }
}

const ITEMS: [Item; 18] = {
    use Need::*;
    use Probe::*;
    [
        item(Compiler, Program("cc"), "gcc libc6-dev", "links Rust programs"),
        item(
            Compiler,
            File("/etc/ssl/certs/ca-certificates.crt"),
            "ca-certificates",
            "verifies TLS servers",
        ),
        item(Relays, Program("ip"), "iproute2", "connects the relays"),
        item(
            Relays,
            Program("mmdebstrap"),
            "mmdebstrap",
            "installs Debian for the relays",
        ),
        item(
            Relays,
            File("/usr/share/keyrings/debian-archive-keyring.gpg"),
            "debian-archive-keyring",
            "verifies Debian's packages",
        ),
        item(
            Relays,
            Program("systemd-nspawn"),
            "systemd-container",
            "runs the relays",
        ),
        item(
            Relays,
            Program("nsenter"),
            "util-linux",
            "runs commands in the relays",
        ),
        item(
            Relays,
            Program("setsid"),
            "util-linux",
            "runs commands in the relays",
        ),
        item(
            Relays,
            Program("unshare"),
            "util-linux",
            "runs commands in the relays",
        ),
        item(
            DeltaChat,
            PythonModule("ensurepip"),
            "python3-venv",
            "downloads Delta Chat from PyPI",
        ),
        item(
            Scenarios,
            Program("nft"),
            "nftables",
            "drops packets of the relays",
        ),
        item(
            Scenarios,
            Program("openssl"),
            "openssl",
            "makes the certificates of tests",
        ),
        item(
            Scenarios,
            Program("prometheus"),
            "prometheus",
            "collects the metrics of the relays",
        ),
        item(
            Scenarios,
            Program("promtool"),
            "prometheus",
            "checks the alert rules",
        ),
        item(
            Scenarios,
            Program("prometheus-node-exporter"),
            "prometheus-node-exporter",
            "exports the storage reports",
        ),
        item(
            Scenarios,
            Program("shellcheck"),
            "shellcheck",
            "checks the shell scripts",
        ),
        item(
            Browser,
            Program("chromium"),
            "chromium",
            "opens the relays' web sites",
        ),
        item(
            Browser,
            Program("chromedriver"),
            "chromium-driver",
            "controls Chromium",
        ),
    ]
};

/// Properties of the host that decide how to handle missing packages.
#[derive(Debug, Clone, Copy)]
struct Host {
    root: bool,
    apt: bool,
    /// The command line does not contain [`NO_INSTALL`].
    may_install: bool,
}

/// What to do about missing packages.
#[derive(Debug, PartialEq, Eq)]
enum Plan {
    /// Nothing is missing.
    Ready,
    /// Print this message, then install these packages with apt.
    Install { packages: Vec<String>, said: String },
    /// Fail with this message.
    Refuse(String),
}

/// Decides what to do about missing packages; `found` tells whether a prerequisite exists.
fn plan(needs: &[Need], host: Host, found: impl Fn(Probe) -> bool) -> Plan {
    let missing: Vec<Item> = ITEMS
        .into_iter()
        .filter(|item| needs.contains(&item.need) && !found(item.probe))
        .collect();
    let mut packages: Vec<(&str, &str)> = Vec::new();
    for item in &missing {
        for package in item.packages.split(' ') {
            if !packages.iter().any(|(known, _)| *known == package) {
                packages.push((package, item.why));
            }
        }
    }
    if packages.is_empty() {
        return Plan::Ready;
    }
    let mut list = String::new();
    for (package, why) in &packages {
        let _ = write!(list, "\n  {package:24} {why}");
    }
    let names: Vec<String> = packages
        .iter()
        .map(|(package, _)| (*package).to_owned())
        .collect();
    let command = format!("apt-get install --no-install-recommends {}", names.join(" "));
    if !host.apt {
        return Plan::Refuse(format!(
            "some programs are missing; these Debian packages contain them:{list}\n\
             The lab installs packages only with apt. Install the programs with the package manager of this system."
        ));
    }
    if !host.may_install {
        return Plan::Refuse(format!(
            "these Debian packages are missing:{list}\nInstall them with: {command}"
        ));
    }
    if !host.root {
        return Plan::Refuse(format!(
            "these Debian packages are missing, and only root can install them:{list}\n\
             Run this command again as root, or install them with: {command}"
        ));
    }
    Plan::Install {
        packages: names,
        said: format!("Installing missing Debian packages with apt:{list}"),
    }
}

/// Installs what is missing for `needs`, or fails with a list of it.
///
/// # Errors
///
/// If something is missing that the lab may not or cannot install.
pub fn ensure(paths: &Paths, progress: &Progress, needs: &[Need]) -> anyhow::Result<()> {
    let host = Host {
        root: is_root(),
        apt: on_path("apt-get"),
        may_install: !std::env::args_os().any(|argument| argument == OsStr::new(NO_INSTALL)),
    };
    match plan(needs, host, found) {
        Plan::Ready => return Ok(()),
        Plan::Refuse(message) => bail!(message),
        Plan::Install { packages, said } => {
            progress.say(said);
            let apt = |name: &str, arguments: &[&str], expected| {
                let mut command = Command::new("apt-get");
                command
                    .args(["-q", "-y", "-o", "DPkg::Lock::Timeout=300"])
                    .args(arguments)
                    .env("DEBIAN_FRONTEND", "noninteractive");
                Task::new(name, expected, command, &paths.log("apt"))
            };
            let lists = apt("Updating the package lists with apt", &["update"], 10);
            tasks::run(progress, vec![lists])?;
            let names: Vec<&str> = packages.iter().map(String::as_str).collect();
            let arguments = [&["install", "--no-install-recommends"], names.as_slice()].concat();
            tasks::run(
                progress,
                vec![apt("Installing packages with apt", &arguments, 40)],
            )?;
        }
    }
    match plan(
        needs,
        Host {
            may_install: false,
            ..host
        },
        found,
    ) {
        Plan::Refuse(message) => bail!("apt succeeded, but {message}"),
        _ => Ok(()),
    }
}

/// Checks that this process can start containers.
///
/// # Errors
///
/// If it does not run as root, or no cgroup2 file system is mounted.
pub fn check_privileges() -> anyhow::Result<()> {
    if !is_root() {
        bail!("the lab starts containers and needs root: run it again as root, for example with `sudo -E`");
    }
    if mounts::cgroup2()?.is_none() {
        bail!("no cgroup2 file system is mounted; mount it with: mount -t cgroup2 cgroup2 /sys/fs/cgroup");
    }
    Ok(())
}

/// Whether this process runs as root.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

fn found(probe: Probe) -> bool {
    match probe {
        Probe::Program(name) => on_path(name),
        Probe::File(path) => Path::new(path).is_file(),
        Probe::PythonModule(name) => Command::new("python3")
            .args(["-c", &format!("import {name}")])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status()
            .is_ok_and(|status| status.success()),
    }
}

/// Whether a program is in `PATH`.
pub fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: Host = Host {
        root: true,
        apt: true,
        may_install: true,
    };
    const DEMO: [Need; 3] = [Need::Compiler, Need::Relays, Need::DeltaChat];

    /// A fresh Debian with Rust and a C compiler.
    fn fresh(probe: Probe) -> bool {
        [
            Probe::Program("cc"),
            Probe::Program("nsenter"),
            Probe::Program("setsid"),
            Probe::Program("unshare"),
        ]
        .contains(&probe)
    }

    #[test]
    fn root_on_debian_gets_what_is_missing_and_is_told_why() {
        let Plan::Install { packages, said } = plan(&DEMO, ROOT, fresh) else {
            panic!("nothing is installed");
        };
        insta::assert_snapshot!(said);
        assert!(packages.contains(&"mmdebstrap".to_owned()));
        assert!(
            !packages.contains(&"chromium".to_owned()),
            "the demo needs no browser"
        );
        assert!(!packages.contains(&"util-linux".to_owned()), "it is there");
    }

    #[test]
    fn nothing_is_installed_where_it_is_not_wanted_or_not_possible() {
        let hosts = [
            (
                "--no-install",
                Host {
                    may_install: false,
                    ..ROOT
                },
            ),
            ("not root", Host { root: false, ..ROOT }),
            ("not Debian", Host { apt: false, ..ROOT }),
        ];
        let mut said = String::new();
        for (name, host) in hosts {
            let Plan::Refuse(message) = plan(&[Need::Relays], host, fresh) else {
                panic!("{name}: something is installed");
            };
            said.push_str(&format!("--- {name}\n{message}\n"));
        }
        insta::assert_snapshot!(said);
    }

    #[test]
    fn a_package_is_named_once_and_only_where_it_is_missing() {
        let Plan::Install { packages, .. } = plan(&[Need::Relays], ROOT, |probe| {
            matches!(
                probe,
                Probe::Program("ip" | "mmdebstrap" | "systemd-nspawn") | Probe::File(_)
            )
        }) else {
            panic!("nothing is installed");
        };
        assert_eq!(packages, ["util-linux"]);
        assert_eq!(plan(&DEMO, ROOT, |_| true), Plan::Ready);
    }

    #[test]
    fn everything_that_this_project_is_tested_with_can_be_installed() {
        let all = [DEMO.as_slice(), &[Need::Scenarios, Need::Browser]].concat();
        let Plan::Install { packages, .. } = plan(&all, ROOT, |_| false) else {
            panic!("nothing is installed");
        };
        for item in ITEMS {
            for package in item.packages.split(' ') {
                assert!(packages.iter().any(|name| name == package), "{package}");
            }
        }
    }
}
