//! The manifest of the rendering: the release of nixpkgs, and hashes of all inputs and outputs.
//!
//! If an input differs from the manifest, somebody forgot to render; if an output differs, somebody edited it by hand.
//! Machines that cannot evaluate the module can check both.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use sha2::{Digest as _, Sha256};

use super::nix::Release;
use crate::committed::FOLDER as RENDERED;
use crate::project;

/// The options reference, which is also rendered.
pub(super) const OPTIONS: &str = "docs/options.md";

/// File name of the manifest in the folder of the rendering.
pub(super) const NAME: &str = "MANIFEST";

/// Inputs of the rendering.
const INPUTS: [&str; 4] = ["examples", "flake.nix", "nix", "nixos"];

/// Beginning of the first line; the release follows.
const RELEASE: &str = "# Rendered with ";

/// Returns the manifest for the current state of the project, rendered with this release.
pub(super) fn made(project: &Path, release: &Release) -> anyhow::Result<String> {
    Ok(format!("{RELEASE}{release}\n{}", current(project)?))
}

/// Whether the committed rendering used this release; otherwise, it cannot be compared.
pub(super) fn is_of(project: &Path, release: &Release) -> anyhow::Result<bool> {
    let committed = committed(project)?;
    let first = committed
        .lines()
        .next()
        .and_then(|line| line.strip_prefix(RELEASE));
    Ok(first == Some(&release.to_string()))
}

/// One line `HASH  PATH` per file, sorted by path.
fn current(project: &Path) -> anyhow::Result<String> {
    let mut hashes = BTreeMap::new();
    for top in INPUTS.into_iter().chain([OPTIONS, RENDERED]) {
        let path = project.join(top);
        let files = if path.is_file() {
            vec![PathBuf::new()]
        } else {
            project::files_below(&path)?
        };
        for file in files {
            let name = Path::new(top).join(&file);
            let name = name.to_string_lossy().trim_end_matches('/').to_owned();
            if name == format!("{RENDERED}/{NAME}") {
                continue;
            }
            let bytes = std::fs::read(project.join(&name)).with_context(|| format!("cannot read {name}"))?;
            hashes.insert(name, hex(&Sha256::digest(bytes)));
        }
    }
    Ok(hashes
        .iter()
        .map(|(name, hash)| format!("{hash}  {name}\n"))
        .collect())
}

/// Returns the differences between the committed manifest and the project, one line per file.
pub(super) fn complaints(project: &Path) -> anyhow::Result<Vec<String>> {
    Ok(compare(&committed(project)?, &current(project)?))
}

fn committed(project: &Path) -> anyhow::Result<String> {
    let path = project.join(RENDERED).join(NAME);
    std::fs::read_to_string(&path).with_context(|| format!("cannot read {}", path.display()))
}

fn compare(committed: &str, current: &str) -> Vec<String> {
    let committed = by_name(committed);
    let current = by_name(current);
    let mut names: Vec<_> = committed.keys().chain(current.keys()).copied().collect();
    names.sort_unstable();
    names.dedup();
    names
        .into_iter()
        .filter_map(|name| {
            let what = match (committed.get(name), current.get(name)) {
                (Some(old), Some(new)) if old == new => return None,
                (Some(_), Some(_)) => "changed",
                (Some(_), None) => "is gone",
                (None, _) => "is new",
            };
            let since = if name.starts_with(RENDERED) || name == OPTIONS {
                "and differs from the rendering"
            } else {
                "since the last rendering"
            };
            Some(format!("{name} {what} {since}"))
        })
        .collect()
}

fn by_name(manifest: &str) -> BTreeMap<&str, &str> {
    manifest
        .lines()
        .filter_map(|line| line.split_once("  "))
        .map(|(hash, name)| (name, hash))
        .collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn either_side_that_changed_alone_is_named() {
        let committed =
            "# Rendered with x\n11  nixos/a.nix\n22  tests/rendered/minimal/wants\n33  nixos/gone.nix\n";
        let current = "12  nixos/a.nix\n23  tests/rendered/minimal/wants\n44  nixos/new.nix\n";
        assert_eq!(
            compare(committed, current),
            [
                "nixos/a.nix changed since the last rendering",
                "nixos/gone.nix is gone since the last rendering",
                "nixos/new.nix is new since the last rendering",
                "tests/rendered/minimal/wants changed and differs from the rendering",
            ]
        );
        assert!(compare(committed, committed).is_empty());
    }
}
