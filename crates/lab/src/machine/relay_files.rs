//! Installs a host that `cargo lab render` wrote in a machine: every file unchanged, at its path on NixOS.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use anyhow::{Context as _, bail, ensure};
use lab_front::rootfs;

use super::ca::Signed;
use super::generation::{Generation, UNITS, store_name, write};
use super::packages::{self, IROH_RELAY_UNIT};
use crate::committed::{self, Files};

/// Files that the lab adds at boot: paths that exist on every NixOS system, and the certificate that an operator
/// provides in the mode `external`. Debian's nginx stores request bodies in /var/lib/nginx, which its unit on NixOS
/// cannot write to; NixOS uses the cache directory.
const TMPFILES: &str = "\
d /var/empty 0555 root root -
L /run/current-system - - - - /nix/store/system-path
L /run/wrappers/bin/sendmail - - - - /usr/sbin/sendmail
L+ /var/lib/nginx - - - - /var/cache/nginx
z /etc/chatmail/tls/key.pem 0640 root nginx -
d /var/lib/node-exporter 0755 vmail vmail -
z /etc/site/key.pem 0640 root nginx -
";

/// Folders of the operator's certificates in nix/eval/hosts/lab-c.nix: for the relay, and for another site on the host.
pub(super) const EXTERNAL_TLS: [&str; 2] = ["etc/chatmail/tls", "etc/site"];

/// The iroh relay starts only if the lab has built it.
const IROH_RELAY_CONDITION: &str = "[Unit]\nConditionPathExists=/nix/store/iroh-relay/bin/iroh-relay\n";

/// A rendered host.
#[derive(Debug, Clone)]
pub(super) struct RelayFiles {
    host: String,
    files: Files,
}

impl RelayFiles {
    /// Loads the rendering of a relay of the lab.
    pub(super) fn of(relay: &str) -> anyhow::Result<Self> {
        let host = format!("lab-{relay}");
        let files = committed::load(&host)?;
        let relay_files = Self { host, files };
        relay_files.check_packages()?;
        Ok(relay_files)
    }

    /// Returns all files by path.
    pub(super) fn texts(&self) -> &Files {
        &self.files
    }

    /// Returns the text of a file.
    fn text(&self, file: &Path) -> anyhow::Result<&str> {
        let text = self.files.get(file).map(String::as_str);
        text.with_context(|| format!("{} has no {}", self.host, file.display()))
    }

    /// Returns the units that the machine starts at boot and that remain active.
    pub(super) fn lasting_units(&self) -> anyhow::Result<BTreeSet<String>> {
        let mut lasting = BTreeSet::new();
        for (_, unit) in self.wants()? {
            let text = self.text(&Path::new("units").join(&unit))?;
            if !text.contains("\nType=oneshot") || text.contains("\nRemainAfterExit=true") {
                lasting.insert(unit);
            }
        }
        Ok(lasting)
    }

    /// Returns pairs of target and unit.
    fn wants(&self) -> anyhow::Result<Vec<(String, String)>> {
        let text = self.text(Path::new("wants"))?;
        let pair = |line: &str| {
            line.split_once(' ')
                .map(|(target, unit)| (target.to_owned(), unit.to_owned()))
        };
        text.lines()
            .map(|line| pair(line).with_context(|| format!("wants: not a target and a unit: {line}")))
            .collect()
    }

    /// Returns the generation of the host.
    pub(super) fn generation(&self) -> anyhow::Result<Generation> {
        Generation::new(&self.files, self.wants()?)
    }

    /// Writes the host to a machine's root. `certificates` are for the mode `external`, each with its folder.
    pub(super) fn apply(
        &self,
        root: &Path,
        programs: &[String],
        certificates: &[(&str, Signed)],
    ) -> anyhow::Result<()> {
        packages::install(root, programs)?;
        self.generation()?.write(root)?;
        write(&root.join("etc/tmpfiles.d/lab.conf"), TMPFILES)?;
        write(&root.join("etc/ld.so.preload"), rootfs::PRELOAD)?;
        if self.files.contains_key(&Path::new("units").join(IROH_RELAY_UNIT)) {
            let folder = root.join(UNITS).join(format!("{IROH_RELAY_UNIT}.d"));
            write(&folder.join("lab.conf"), IROH_RELAY_CONDITION)?;
        }
        write_certificates(root, certificates)
    }

    /// Fails if the rendering refers to a store path that is neither in it nor a package with a replacement.
    fn check_packages(&self) -> anyhow::Result<()> {
        let mut unknown = BTreeSet::new();
        let stored: BTreeSet<_> = self
            .files
            .keys()
            .filter_map(|file| file.strip_prefix("store").ok()?.iter().next()?.to_str())
            .collect();
        for text in self.files.values() {
            for name in store_names(text) {
                if !packages::known(name) && !stored.contains(name) {
                    unknown.insert(name.to_owned());
                }
            }
        }
        if !unknown.is_empty() {
            let unknown: Vec<_> = unknown.into_iter().collect();
            bail!(
                "{} refers to packages without a replacement in crates/lab/src/machine/packages.rs: {}",
                self.host,
                unknown.join(", ")
            );
        }
        Ok(())
    }
}

/// Writes certificates for the mode `external`, each into its folder.
pub(super) fn write_certificates(root: &Path, certificates: &[(&str, Signed)]) -> anyhow::Result<()> {
    for (folder, certificate) in certificates {
        write(&root.join(folder).join("fullchain.pem"), &certificate.chain)?;
        let key = root.join(folder).join("key.pem");
        write(&key, &certificate.key)?;
        fs::set_permissions(&key, fs::Permissions::from_mode(0o600))?;
    }
    Ok(())
}

/// Returns the first components of all store paths in a text.
fn store_names(text: &str) -> impl Iterator<Item = &str> {
    text.split("/nix/store/").skip(1).filter_map(store_name)
}

/// Builds the relay's web site in its root with the command that Nix runs, from the rendered settings.
pub(super) fn build_site(programs: &Path, root: &Path, sources: &Path) -> anyhow::Result<()> {
    let chatmail = programs.join("chatmail");
    let output = std::process::Command::new(&chatmail)
        .arg("--settings")
        .arg(root.join("etc/chatmail/settings.json"))
        .arg("website")
        .arg("--source")
        .arg(sources)
        .arg("--output")
        .arg(root.join("nix/store").join(packages::SITE))
        .output()
        .with_context(|| format!("cannot run {}", chatmail.display()))?;
    ensure!(
        output.status.success(),
        "cannot build the web site: {}",
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_package_of_the_committed_rendering_has_a_stand_in() {
        for relay in ["a", "a-next", "b", "c", "d", "e"] {
            RelayFiles::of(relay).unwrap();
        }
    }

    #[test]
    fn names_end_where_the_path_component_does() {
        let names: Vec<_> =
            store_names("a /nix/store/x-1.conf; (/nix/store/postfix/bin). /nix/store/y.").collect();
        assert_eq!(names, ["x-1.conf", "postfix", "y"]);
    }
}
