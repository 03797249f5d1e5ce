//! The source tree that the lab was built from.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
pub(crate) use lab_front::project::{cargo, root};

/// Sorted paths of all files below a folder, relative to it; empty if the folder does not exist. Hidden files are
/// skipped, because they belong to editors and tools.
pub(crate) fn files_below(folder: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut found = Vec::new();
    let mut folders = vec![PathBuf::new()];
    while let Some(inner) = folders.pop() {
        let path = folder.join(&inner);
        let entries = match path.read_dir() {
            Ok(entries) => entries,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error).with_context(|| format!("cannot list {}", path.display())),
        };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            if name.to_string_lossy().starts_with('.') {
                continue;
            }
            let kind = entry.file_type()?;
            if kind.is_dir() {
                folders.push(inner.join(name));
            } else {
                found.push(inner.join(name));
            }
        }
    }
    found.sort();
    Ok(found)
}
