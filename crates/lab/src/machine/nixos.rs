//! Whole NixOS systems: built in a Debian tree that has Nix, and booted in place of a relay.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context as _, bail, ensure};
use lab_front::paths::Paths;
use lab_front::progress::Progress;
use lab_front::{rootfs, tasks};
use mailtest::topology::Relay;
use tokio::process::Command;

use super::ca::Ca;
use super::container::{self, Boot};
use super::state::Leader;
use super::{relay_files, start};
use crate::project;

/// Folder with the key of DKIM, which a relay keeps: others have its public half in their caches.
const DKIM: &str = "var/lib/chatmail-dkim";

/// Runs a program in a Debian tree. Before `--`: the tree, then pairs of a folder and its path in the tree.
const ENTER: &str = r#"
tree=$1; shift
while [ "$1" != -- ]; do
  mkdir -p "$tree$2"
  mount --bind "$1" "$tree$2"
  shift 2
done
shift
mount -t proc proc "$tree/proc"
mount --rbind /dev "$tree/dev"
cat /etc/resolv.conf >"$tree/etc/resolv.conf"
exec chroot "$tree" /usr/bin/env --ignore-environment PATH=/usr/bin:/usr/sbin HOME=/tmp NIX_CONFIG="$NIX_CONFIG" "$@"
"#;
/// Builders see the tree. Nix adds whether packages are downloaded.
const NIX_CONFIG: &str = "build-users-group =\nsandbox = false\n";

/// Paths in the tree.
const LIB_PARENT: &str = "/src/above";
const TREE: &str = "/src/tree";
const PROJECT: &str = "/src/project";
const PROGRAMS: &str = "/src/programs";
const IROH_RELAY: &str = "/src/iroh-relay";
const AUTHORITY: &str = "/src/authority";

/// Where the packages of systems come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Packages {
    /// Links to files of this release of Debian.
    Debian(String),
    /// nixpkgs, and its binary caches.
    Nixpkgs,
}

impl fmt::Display for Packages {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian(suite) => write!(f, "links to those of Debian {suite}"),
            Self::Nixpkgs => f.write_str("those of nixpkgs, from binary caches or built"),
        }
    }
}

/// How a system differs from another one of the same host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Variant {
    /// Not at all.
    Plain,
    /// Our package has another store path.
    OtherPackage,
    /// All packages have other store paths. Only for links to Debian's packages.
    OtherRelease,
}

/// A system in the store.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct System {
    /// Its store path.
    pub(crate) path: String,
}

/// Builds systems.
#[derive(Debug, Clone)]
pub(crate) struct Builder {
    debian: PathBuf,
    /// What is `/nix` in the tree.
    nix: PathBuf,
    key: String,
    binds: Vec<(PathBuf, &'static str)>,
    lib: String,
    packages: Packages,
}

impl Builder {
    /// Installs this release of Debian for NixOS systems if it is missing. `lib` and `tree` are the parts of nixpkgs.
    pub(super) async fn new(
        paths: &Paths,
        relays: &[Relay],
        lib: &Path,
        tree: &Path,
        suite: &str,
    ) -> anyhow::Result<Self> {
        let debian = rootfs::nixos(suite);
        if let Some(task) = rootfs::install(paths, &debian)? {
            tasks::run(&Progress::new(), vec![task])?;
        }
        start::build_iroh_relay(paths).await?;
        let Some((name, above)) = lib
            .file_name()
            .and_then(|name| Some((name.to_str()?, lib.parent()?)))
        else {
            bail!("{} is not a folder with a name", lib.display());
        };
        let nix = paths.base().join("nix");
        let authority = paths.base().join("authority");
        for folder in [&nix, &authority] {
            fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
        }
        fs::write(authority.join("ca.pem"), Ca::ensure(paths)?.certificate)?;
        let builder = Self {
            key: debian.key(),
            debian: debian
                .installed(paths)
                .context("Debian for NixOS systems is not installed")?,
            binds: vec![
                (nix.clone(), "/nix"),
                // The parent folder, because files in a checkout's lib may refer to it.
                (above.to_owned(), LIB_PARENT),
                (tree.to_owned(), TREE),
                (project::root().to_owned(), PROJECT),
                (paths.programs(), PROGRAMS),
                (start::iroh_relay(paths), IROH_RELAY),
                (authority, AUTHORITY),
            ],
            nix,
            lib: format!("{LIB_PARENT}/{name}"),
            // nix/boot/default.nix decides in the same way.
            packages: if tree.join("pkgs/top-level").exists() {
                Packages::Nixpkgs
            } else {
                Packages::Debian(suite.to_owned())
            },
        };
        builder.clean(paths, relays).await?;
        Ok(builder)
    }

    /// Where the packages come from.
    pub(crate) fn packages(&self) -> &Packages {
        &self.packages
    }

    /// A program in the tree.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("unshare");
        command
            .args([
                "--mount",
                "--propagation",
                "private",
                "bash",
                "-euc",
                ENTER,
                "bash",
            ])
            .arg(&self.debian)
            .args(
                self.binds
                    .iter()
                    .flat_map(|(host, inside)| [host.as_os_str(), inside.as_ref()]),
            )
            .args(["--", program])
            .env(
                "NIX_CONFIG",
                format!(
                    "{NIX_CONFIG}substitute = {}\n",
                    self.packages == Packages::Nixpkgs
                ),
            )
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// Removes what earlier runs have left: systems other than the last ones of each host, and trees of relays.
    async fn clean(&self, paths: &Paths, relays: &[Relay]) -> anyhow::Result<()> {
        for relay in relays {
            for tree in [relays_tree(paths, &relay.name), old_tree(paths, &relay.name)] {
                if tree.exists() {
                    fs::remove_dir_all(&tree).with_context(|| format!("cannot remove {}", tree.display()))?;
                }
            }
        }
        let collected = self
            .command("nix-store")
            .args(["--gc", "--quiet"])
            .output()
            .await?;
        ensure!(
            collected.status.success(),
            "cannot clean the store: {}",
            String::from_utf8_lossy(&collected.stderr).trim_end()
        );
        Ok(())
    }

    /// Builds the system of a host; `host` is its configuration, relative to the project.
    pub(crate) async fn build(&self, host: &str, variant: Variant) -> anyhow::Result<System> {
        let suffix = |other| if variant == other { "-next" } else { "" };
        let link = format!("/nix/{}-{variant:?}", host.replace('/', "-"));
        let arguments = [
            ("lib", self.lib.clone()),
            ("tree", TREE.to_owned()),
            ("host", format!("{PROJECT}/{host}")),
            ("programs", PROGRAMS.to_owned()),
            ("irohRelay", IROH_RELAY.to_owned()),
            ("authority", format!("{AUTHORITY}/ca.pem")),
            (
                "debianKey",
                format!("{}{}", self.key, suffix(Variant::OtherRelease)),
            ),
            ("ourKey", suffix(Variant::OtherPackage).to_owned()),
        ];
        let mut command = self.command("nix-build");
        command
            .args([&format!("{PROJECT}/nix/boot"), "--out-link", &link])
            .args(
                arguments
                    .iter()
                    .flat_map(|(name, value)| ["--argstr", name, value]),
            );
        let output = command.output().await.context("cannot run nix-build")?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).into_owned();
            let lines: Vec<&str> = said
                .lines()
                .filter(|line| !line.starts_with("building "))
                .collect();
            let last = lines.get(lines.len().saturating_sub(20)..).unwrap_or_default();
            bail!("cannot build {host}: {}", last.join("\n"));
        }
        let path = String::from_utf8(output.stdout).context("a store path is not UTF-8")?;
        let path = path.trim().to_owned();
        ensure!(path.starts_with("/nix/store/"), "nix-build printed `{path}`");
        Ok(System { path })
    }

    /// Creates the file tree of a system that has never booted, which replaces the tree of a relay. It keeps what
    /// belongs to the relay and not to its system: the key of DKIM, and the operator's certificates.
    pub(super) fn make_tree(&self, paths: &Paths, relay: &Relay) -> anyhow::Result<()> {
        let root = paths.machine(&relay.name);
        let relays = relays_tree(paths, &relay.name);
        fs::rename(&root, &relays).with_context(|| format!("cannot move {}", root.display()))?;
        container::make_nixos_tree(&self.debian, &root)?;
        let kept = relays.join(DKIM);
        if kept.exists() {
            fs::create_dir_all(root.join(DKIM))?;
            for entry in fs::read_dir(&kept)? {
                let entry = entry?;
                fs::copy(entry.path(), root.join(DKIM).join(entry.file_name()))?;
            }
        }
        let certificates = start::certificates(&Ca::ensure(paths)?, relay)?;
        relay_files::write_certificates(&root, &certificates)
    }

    /// Starts over with an empty file tree, into which only these paths are moved.
    pub(super) fn keep_only(&self, paths: &Paths, name: &str, kept: &[String]) -> anyhow::Result<()> {
        let (root, old) = (paths.machine(name), old_tree(paths, name));
        fs::rename(&root, &old).with_context(|| format!("cannot move {}", root.display()))?;
        container::make_nixos_tree(&self.debian, &root)?;
        for path in kept {
            let path = path.trim_start_matches('/');
            let (from, to) = (old.join(path), root.join(path));
            if !from.exists() {
                continue;
            }
            fs::create_dir_all(to.parent().context("a path has no folder")?)?;
            fs::rename(&from, &to).with_context(|| format!("cannot move {}", from.display()))?;
        }
        fs::remove_dir_all(&old).with_context(|| format!("cannot remove {}", old.display()))
    }

    /// Boots a system in the tree and the network of a relay.
    pub(super) async fn boot(&self, paths: &Paths, name: &str, system: &System) -> anyhow::Result<Leader> {
        let boot = Boot {
            name: name.to_owned(),
            rootfs: self.debian.clone(),
            binds: vec![(self.nix.join("store"), "/nix/store".to_owned())],
            size: None,
            init: Some(format!("{}/init", system.path)),
        };
        Ok(container::boot(paths, &boot).await?.leader)
    }
}

/// Where the tree of the relay is while a NixOS system is in its place.
fn relays_tree(paths: &Paths, relay: &str) -> PathBuf {
    paths.machine(&format!("{relay}.debian"))
}

/// Where the previous tree of a NixOS system is while it starts over.
fn old_tree(paths: &Paths, relay: &str) -> PathBuf {
    paths.machine(&format!("{relay}.old"))
}

/// Whether the tree of a NixOS system is in the place of a relay's.
pub(super) fn replaced(paths: &Paths, relay: &str) -> bool {
    relays_tree(paths, relay).exists()
}

/// Removes the tree of a NixOS system and puts back that of the relay.
pub(super) fn restore_tree(paths: &Paths, relay: &str) -> anyhow::Result<()> {
    let (root, relays) = (paths.machine(relay), relays_tree(paths, relay));
    fs::remove_dir_all(&root).with_context(|| format!("cannot remove {}", root.display()))?;
    fs::rename(&relays, &root).with_context(|| format!("cannot move {}", relays.display()))
}
