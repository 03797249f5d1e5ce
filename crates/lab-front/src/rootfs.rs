//! The Debian trees that machines are made from: installed once, stored in the lab's directory.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

use crate::paths::Paths;
use crate::tasks::Task;

/// Release of Debian: the first with Dovecot 2.4 and Postfix 3.10, which NixOS 26.05 also has.
pub const SUITE: &str = "trixie";

/// Debian's unstable release, whose daemons are the newest.
const UNSTABLE: &str = "sid";

/// Packages of a relay, and tools for those who inspect one.
const PACKAGES: [&str; 28] = [
    "bind9-host",
    "ca-certificates",
    "coturn",
    "curl",
    "dovecot-auth-lua",
    "dovecot-imapd",
    "dovecot-lmtpd",
    "iproute2",
    "lego",
    "less",
    "libnginx-mod-stream",
    "libnss-systemd",
    "lua-cjson",
    "mtail",
    "nginx",
    "opendkim",
    "opendkim-tools",
    "openssh-client",
    "openssh-server",
    "openssl",
    "pebble",
    "postfix",
    "procps",
    "restic",
    "rsync",
    "systemd-sysv",
    "tzdata",
    "unbound",
];

/// Packages that NixOS systems need in addition: programs of every NixOS system, and those that build it.
const NIXOS_PACKAGES: [&str; 30] = [
    "acl",
    "dbus",
    "e2fsprogs",
    "file",
    "fuse3",
    "gawk",
    "gcc",
    "hostname",
    "iptables",
    "kbd",
    "kmod",
    "libc6-dev",
    "libcap2-bin",
    "libconfig-inifiles-perl",
    "libfile-slurp-perl",
    "libjson-perl",
    "libnet-dbus-perl",
    "login",
    "logrotate",
    "mount",
    "ncurses-bin",
    "nftables",
    "nix-bin",
    "openresolv",
    "passwd",
    "perl",
    "sudo",
    "udev",
    "uidmap",
    "xz-utils",
];

/// Measured CPU time of the installation.
const INSTALLATION_CPU_SECONDS: u64 = 100;

/// Source of a library with which Debian's Dovecot notifies IDLE clients of new mail quickly, like the flake's patched
/// Dovecot.
const PRELOAD_SOURCE: &str = include_str!("../files/idle-soon.c");

/// Path of the library in a machine.
pub const PRELOAD: &str = "/usr/lib/chatmail-lab/idle-soon.so";

/// Script that runs on the installed tree. It disables all units of Debian and removes Debian's configuration of the
/// daemons, so that a relay runs only what the module renders; files that packages only read move below `/usr`. It masks
/// units for consoles, package updates and boot bookkeeping, which would delay every start.
const CUSTOMIZE: &str = r#"set -eu
cd "$1"
find etc/systemd/system -name '*.wants' -prune -exec rm -r {} +
find etc/systemd/system -type l -delete
mkdir usr/share/chatmail-lab
mv etc/nginx etc/postfix usr/share/chatmail-lab
# `postfix set-permissions` also visits programs, and those lie on a read-only file system in a machine.
sed -i -E '/^\$(queue|data)_directory/!d' usr/share/chatmail-lab/postfix/postfix-files
rm -rf usr/share/chatmail-lab/postfix/postfix-files.d
rm -rf etc/rc?.d etc/init.d etc/dovecot etc/opendkim* etc/unbound etc/turnserver.conf etc/mtail
rm -f etc/.updated var/.updated etc/hostname etc/resolv.conf etc/machine-id
for unit in console-getty.service getty@.service getty.target ldconfig.service systemd-hwdb-update.service \
    systemd-journal-catalog-update.service systemd-logind.service systemd-update-done.service \
    systemd-networkd.service systemd-firstboot.service; do
    ln -s /dev/null "etc/systemd/system/$unit"
done
ln -s /usr/lib/systemd/system/multi-user.target etc/systemd/system/default.target
rm -rf var/lib/apt var/cache var/lib/dpkg/info var/log var/lib/postfix var/lib/unbound
mkdir -p var/cache var/log
"#;

/// Script for the tree of NixOS systems: keeps the lists of the packages' files, from which packages of nixpkgs are made,
/// and OpenSSL's configuration, which is in `/etc` on Debian.
const NIXOS_CUSTOMIZE: &str = r#"set -eu
cd "$1"
mkdir -p nix usr/share/chatmail-lab/lists
cp var/lib/dpkg/info/*.list usr/share/chatmail-lab/lists
mv etc/nginx etc/postfix usr/share/chatmail-lab
sed -i -E '/^\$(queue|data)_directory/!d' usr/share/chatmail-lab/postfix/postfix-files
rm -rf usr/share/chatmail-lab/postfix/postfix-files.d
cp --remove-destination etc/ssl/openssl.cnf usr/lib/ssl/openssl.cnf
rm -rf var/lib/apt var/cache var/lib/dpkg/info var/log
"#;

/// Packages that Debian has split from others since.
const UNSTABLE_PACKAGES: [&str; 1] = ["postfix-cdb"];

/// Script for Debian's unstable release, before the other one: files of Postfix that are in `/etc/postfix` on Debian 13.
const UNSTABLE_CUSTOMIZE: &str = r#"cp -an "$1"/usr/share/postfix/. "$1/etc/postfix"
"#;

/// A tree.
#[derive(Debug, Clone)]
pub struct Tree {
    /// First part of its name in the lab's directory.
    prefix: String,
    suite: String,
    packages: [&'static [&'static str]; 3],
    /// Scripts that run on the installed tree, one after the other.
    customize: [&'static str; 2],
    purpose: &'static str,
}

/// `/usr`, `/etc` and `/var` of the relays.
pub fn relays() -> Tree {
    Tree {
        prefix: "rootfs-".to_owned(),
        suite: SUITE.to_owned(),
        packages: [&PACKAGES, &[], &[]],
        customize: ["", CUSTOMIZE],
        purpose: "for the relays",
    }
}

/// Builds NixOS systems, and is their `/usr`. Trees of several releases of Debian can exist side by side.
#[must_use]
pub fn nixos(suite: &str) -> Tree {
    let (more, first): (&'static [&'static str], _) = if suite == UNSTABLE {
        (&UNSTABLE_PACKAGES, UNSTABLE_CUSTOMIZE)
    } else {
        (&[], "")
    };
    Tree {
        prefix: if suite == SUITE {
            "nixos-".to_owned()
        } else {
            format!("{suite}-nixos-")
        },
        suite: suite.to_owned(),
        packages: [&PACKAGES, &NIXOS_PACKAGES, more],
        customize: [first, NIXOS_CUSTOMIZE],
        purpose: "for NixOS systems",
    }
}

impl Tree {
    /// A hash of the package list and of the changes to the tree.
    #[must_use]
    pub fn key(&self) -> String {
        let mut hash = Sha256::new();
        let packages = self.packages.concat().join(",");
        for part in [&*self.suite, &packages, &self.customize.concat(), PRELOAD_SOURCE] {
            hash.update(part);
            hash.update([0]);
        }
        hash.finalize()
            .iter()
            .take(6)
            .map(|byte| format!("{byte:02x}"))
            .collect()
    }

    fn path(&self, paths: &Paths) -> PathBuf {
        paths.base().join(format!("{}{}", self.prefix, self.key()))
    }

    /// The tree, if it is installed.
    #[must_use]
    pub fn installed(&self, paths: &Paths) -> Option<PathBuf> {
        Some(self.path(paths)).filter(|tree| tree.exists())
    }
}

/// The tree of the relays, if it is installed.
pub fn installed(paths: &Paths) -> Option<PathBuf> {
    relays().installed(paths)
}

/// The task that installs a tree, or `None` if it is installed.
///
/// # Errors
///
/// If the rest of an interrupted installation cannot be removed.
pub fn install(paths: &Paths, which: &Tree) -> anyhow::Result<Option<Task>> {
    if which.installed(paths).is_some() {
        return Ok(None);
    }
    let tree = which.path(paths);
    let partial = tree.with_extension("partial");
    if partial.exists() {
        fs::remove_dir_all(&partial).with_context(|| format!("cannot remove {}", partial.display()))?;
    }
    // In a separate mount namespace, so that an interrupted installation leaves nothing mounted.
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "mmdebstrap",
        "--mode=root",
        "--variant=minbase",
        "--format=directory",
    ]);
    command.arg(format!("--include={}", which.packages.concat().join(",")));
    command.args([
        "--aptopt=APT::Install-Recommends \"false\"",
        "--dpkgopt=path-exclude=/usr/share/doc/*",
        "--dpkgopt=path-exclude=/usr/share/man/*",
        "--dpkgopt=path-exclude=/usr/share/locale/*",
    ]);
    if which.suite == UNSTABLE {
        // Its signature is valid for a week, and caches of mirrors are often older.
        command.arg("--aptopt=Acquire::Check-Valid-Until \"false\"");
    }
    command.arg(format!("--customize-hook={}", which.customize.concat()));
    command
        .arg(&which.suite)
        .arg(&partial)
        .args(sources(&which.suite));
    let name = format!("Installing Debian {} {}", which.suite, which.purpose);
    let paths = paths.clone();
    let prefix = which.prefix.clone();
    let log = paths.log("mmdebstrap");
    let task = Task::new(&name, INSTALLATION_CPU_SECONDS, command, &log).then(move || {
        compile_preload(&partial)?;
        fs::rename(&partial, &tree).with_context(|| format!("cannot create {}", tree.display()))?;
        remove_old(&paths, &prefix, &tree)
    });
    Ok(Some(task))
}

fn compile_preload(tree: &Path) -> anyhow::Result<()> {
    let library = tree.join(PRELOAD.trim_start_matches('/'));
    let source = library.with_extension("c");
    fs::create_dir_all(library.parent().context("the library has no folder")?)?;
    fs::write(&source, PRELOAD_SOURCE)?;
    let status = Command::new("cc")
        .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
        .args([&library, &source])
        .status()
        .context("cannot run cc")?;
    if !status.success() {
        bail!("cannot compile {}: {status}", source.display());
    }
    Ok(())
}

/// Key of the relays' tree.
pub fn key() -> String {
    relays().key()
}

/// Package sources: the Debian mirrors that this machine's apt uses. Empty if it uses none; mmdebstrap then uses its
/// defaults.
fn sources(suite: &str) -> Vec<String> {
    let output = Command::new("apt-get")
        .args([
            "indextargets",
            "--format",
            "$(ORIGIN)/$(LABEL) $(REPO_URI)",
            "Created-By: Packages",
        ])
        .stdin(Stdio::null())
        .output();
    let text = output
        .map(|output| String::from_utf8_lossy(&output.stdout).into_owned())
        .unwrap_or_default();
    let mirror = |label: &str| {
        text.lines()
            .find_map(|line| line.strip_prefix(label))
            .map(str::trim)
    };
    let Some(main) = mirror("Debian/Debian ") else {
        return Vec::new();
    };
    let mut sources = vec![format!("deb {main} {suite} main")];
    if suite != UNSTABLE {
        sources.push(format!("deb {main} {suite}-updates main"));
        sources
            .extend(mirror("Debian/Debian-Security ").map(|uri| format!("deb {uri} {suite}-security main")));
    }
    sources
}

/// Removes trees with other keys.
fn remove_old(paths: &Paths, prefix: &str, current: &Path) -> anyhow::Result<()> {
    for entry in fs::read_dir(paths.base())?.flatten() {
        let old = entry.file_name().to_string_lossy().starts_with(prefix) && entry.path() != current;
        if old {
            fs::remove_dir_all(entry.path())
                .with_context(|| format!("cannot remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}
