//! A rendered host as a generation of a NixOS system. Store paths contain a hash again, as on NixOS, so two generations
//! can exist side by side, and a change to a file changes every file and unit that refers to it.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use sha2::{Digest as _, Sha256};

const STORE: &str = "/nix/store/";
/// Characters of a hash, as in Nix.
const HASH_LENGTH: usize = 32;
/// Directory of the units.
pub(super) const UNITS: &str = "etc/systemd/system";

/// Names of store entries, with the names that replace them.
type Names = BTreeMap<String, String>;

/// All files and links that NixOS would install for one host.
#[derive(Debug, Clone, Default)]
pub(super) struct Generation {
    /// Texts by their path below the root.
    pub(super) files: BTreeMap<PathBuf, String>,
    /// Targets, and units that they want.
    pub(super) wants: Vec<(String, String)>,
}

impl Generation {
    /// Computes the paths of rendered files.
    pub(super) fn new(
        rendered: &BTreeMap<PathBuf, String>,
        wants: Vec<(String, String)>,
    ) -> anyhow::Result<Self> {
        let mut names = Names::new();
        let mut entries: BTreeMap<String, BTreeMap<&Path, &str>> = BTreeMap::new();
        for (file, text) in rendered {
            if let Ok(below) = file.strip_prefix("store")
                && let Some(entry) = below.iter().next().and_then(|name| name.to_str())
            {
                entries.entry(entry.to_owned()).or_default().insert(below, text);
            }
        }
        for entry in entries.keys() {
            hashed(entry, &entries, &mut names, 0)?;
        }
        let files = rendered.iter().filter_map(|(file, text)| {
            let place = place(file, &names)?;
            Some((place, renamed(text, &names)))
        });
        Ok(Self {
            files: files.collect(),
            wants,
        })
    }

    /// Texts of the units by name.
    pub(super) fn units(&self) -> BTreeMap<&str, &str> {
        self.files
            .iter()
            .filter_map(|(path, text)| {
                let name = path.strip_prefix(UNITS).ok()?.to_str()?;
                Some((name, text.as_str()))
            })
            .collect()
    }

    /// Writes the generation into a machine's tree, each file atomically. Store paths of other generations stay.
    pub(super) fn write(&self, root: &Path) -> anyhow::Result<()> {
        for (place, text) in &self.files {
            write(&root.join(place), text)?;
        }
        for (target, unit) in &self.wants {
            let folder = root.join(UNITS).join(format!("{target}.wants"));
            fs::create_dir_all(&folder)?;
            let link = folder.join(unit);
            if !link.is_symlink() {
                symlink(format!("/{UNITS}/{unit}"), link).with_context(|| format!("cannot enable {unit}"))?;
            }
        }
        Ok(())
    }
}

/// Computes the hash of a store entry from its texts, in which the hashed names stand for the entries they refer to.
fn hashed(
    entry: &str,
    entries: &BTreeMap<String, BTreeMap<&Path, &str>>,
    names: &mut Names,
    depth: usize,
) -> anyhow::Result<()> {
    let Some(files) = entries.get(entry).filter(|_| !names.contains_key(entry)) else {
        return Ok(());
    };
    if depth > entries.len() {
        bail!("the store entry {entry} refers to itself");
    }
    let mut hash = Sha256::new();
    for (file, text) in files {
        for name in text.split(STORE).skip(1).filter_map(store_name) {
            if name != entry {
                hashed(name, entries, names, depth + 1)?;
            }
        }
        hash.update(file.as_os_str().as_encoded_bytes());
        hash.update(renamed(text, names));
    }
    let mut name: String = hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
    name.truncate(HASH_LENGTH);
    names.insert(entry.to_owned(), format!("{name}-{entry}"));
    Ok(())
}

/// Replaces the names of store entries in a text.
fn renamed(text: &str, names: &Names) -> String {
    let mut parts = text.split(STORE);
    let mut result = parts.next().unwrap_or_default().to_owned();
    for rest in parts {
        result.push_str(STORE);
        let name = store_name(rest).unwrap_or_default();
        match names.get(name) {
            Some(other) => {
                result.push_str(other);
                result.push_str(rest.strip_prefix(name).unwrap_or(rest));
            }
            None => result.push_str(rest),
        }
    }
    result
}

/// The name of a store entry; `rest` is the text after `/nix/store/`.
pub(super) fn store_name(rest: &str) -> Option<&str> {
    let name = rest
        .split(|c: char| !(c.is_ascii_alphanumeric() || "+-._".contains(c)))
        .next()?;
    let name = name.trim_end_matches('.');
    (!name.is_empty()).then_some(name)
}

/// Path of a rendered file in a machine.
fn place(file: &Path, names: &Names) -> Option<PathBuf> {
    if let Ok(below) = file.strip_prefix("etc") {
        return Some(Path::new("etc").join(below));
    }
    if let Ok(below) = file.strip_prefix("store") {
        let entry = below.iter().next()?.to_str()?;
        let hashed = Path::new("nix/store").join(names.get(entry)?);
        let rest = below.strip_prefix(entry).ok()?;
        return Some(if rest.as_os_str().is_empty() {
            hashed
        } else {
            hashed.join(rest)
        });
    }
    if let Ok(below) = file.strip_prefix("units") {
        return Some(Path::new(UNITS).join(below));
    }
    match file.to_str() {
        Some("sysusers.conf") => Some("etc/sysusers.d/nixos.conf".into()),
        Some("tmpfiles.conf") => Some("etc/tmpfiles.d/nixos.conf".into()),
        _ => None,
    }
}

/// Replaces a file atomically. Scripts are executable, as in the store.
pub(super) fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let folder = path.parent().context("a file has no folder")?;
    fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
    let replace = || {
        let file = tempfile::NamedTempFile::new_in(folder)?;
        fs::write(&file, text)?;
        fs::set_permissions(&file, fs::Permissions::from_mode(mode))?;
        file.persist(path)?;
        anyhow::Ok(())
    };
    replace().with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn generation(main: &str) -> Generation {
        let rendered = [
            ("store/main.cf", main),
            ("store/setup/bin/setup", "#!/bin/sh\nln -s /nix/store/main.cf ."),
            ("store/other", "same"),
            ("units/a.service", "ExecStart=/nix/store/setup/bin/setup"),
            (
                "units/b.service",
                "ExecStart=/nix/store/postfix/bin/postfix /nix/store/other.",
            ),
        ];
        let rendered = rendered.map(|(path, text)| (path.into(), text.to_owned())).into();
        Generation::new(&rendered, Vec::new()).unwrap()
    }

    #[test]
    fn a_change_reaches_whoever_names_it_and_nobody_else() {
        let (one, other) = (generation("size = 1"), generation("size = 2"));
        assert_ne!(one.units()["a.service"], other.units()["a.service"]);
        assert_eq!(one.units()["b.service"], other.units()["b.service"]);
        assert_eq!(
            one.units()["a.service"],
            generation("size = 1").units()["a.service"]
        );
    }

    #[test]
    fn what_a_unit_names_is_in_its_place() {
        let one = generation("size = 1");
        let (_, program) = one.units()["a.service"].split_once('=').unwrap();
        let script = &one.files[Path::new(program.trim_start_matches('/'))];
        let (_, link) = script.split_once("ln -s /").unwrap();
        let link = link.trim_end_matches(" .");
        assert_eq!(one.files[Path::new(link)], "size = 1");
        assert!(one.units()["b.service"].contains("/nix/store/postfix/bin/postfix "));
        assert!(one.units()["b.service"].ends_with("-other."));
    }
}
