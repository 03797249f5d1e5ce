//! Merges the source folders.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

/// Source files by their path in the site. Files of later folders replace those with the same path.
pub(super) type Files = BTreeMap<PathBuf, Vec<u8>>;

/// Suffixes of files that editors and merges leave.
const LEFTOVERS: [&str; 4] = ["~", ".orig", ".rej", ".swp"];

pub(super) fn merge(folders: &[PathBuf]) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for folder in folders {
        collect(folder, Path::new(""), &mut files)?;
    }
    Ok(files)
}

fn collect(folder: &Path, below: &Path, files: &mut Files) -> anyhow::Result<()> {
    let here = folder.join(below);
    let entries = here
        .read_dir()
        .with_context(|| format!("cannot list {}", here.display()))?;
    for entry in entries {
        let name = entry
            .with_context(|| format!("cannot list {}", here.display()))?
            .file_name();
        let text = name.to_string_lossy();
        if text.starts_with('.') || LEFTOVERS.iter().any(|end| text.ends_with(end)) {
            continue;
        }
        let inner = below.join(&name);
        let path = folder.join(&inner);
        let read = |error| format!("cannot read {}: {error}", path.display());
        // Links are followed: folders in the Nix store are often made of them.
        let kind = std::fs::metadata(&path).map_err(|error| anyhow::anyhow!(read(error)))?;
        if kind.is_dir() {
            collect(folder, &inner, files)?;
        } else {
            let bytes = std::fs::read(&path).map_err(|error| anyhow::anyhow!(read(error)))?;
            if conflict(&bytes) {
                anyhow::bail!("{} contains the markers of a merge conflict", path.display());
            }
            files.insert(inner, bytes);
        }
    }
    Ok(())
}

fn conflict(bytes: &[u8]) -> bool {
    let starts = |mark: &[u8]| {
        bytes
            .split(|&byte| byte == b'\n')
            .any(|line| line.starts_with(mark))
    };
    starts(b"<<<<<<< ") && starts(b">>>>>>> ")
}
