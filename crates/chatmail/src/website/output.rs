//! Writes a site atomically.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

/// Files of a site by their paths.
pub(super) type Site = BTreeMap<PathBuf, Vec<u8>>;

/// File that marks a folder which this command may replace.
const MARK: &str = ".chatmail-website";

pub(super) fn write(folder: &Path, site: &Site) -> anyhow::Result<()> {
    let parent = match folder.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let exists = folder.is_dir();
    if exists && !folder.join(MARK).exists() && folder.read_dir().is_ok_and(|mut list| list.next().is_some())
    {
        anyhow::bail!(
            "{} contains files that this command did not write; choose another folder",
            folder.display()
        );
    }
    // The temporary folder is removed at the end, with an incomplete site or the old one in it.
    let fresh = tempfile::Builder::new()
        .prefix(MARK)
        .tempdir_in(parent)
        .with_context(|| format!("cannot write to {}", parent.display()))?;
    fill(fresh.path(), site)?;
    if exists {
        renameat2(
            AT_FDCWD,
            fresh.path(),
            AT_FDCWD,
            folder,
            RenameFlags::RENAME_EXCHANGE,
        )
        .map_err(std::io::Error::from)
    } else {
        std::fs::rename(fresh.path(), folder)
    }
    .with_context(|| format!("cannot move the site to {}", folder.display()))
}

fn fill(folder: &Path, site: &Site) -> anyhow::Result<()> {
    let mode = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(folder, mode).with_context(|| format!("cannot open {}", folder.display()))?;
    let mark = (PathBuf::from(MARK), Vec::new());
    for (name, bytes) in site.iter().chain([(&mark.0, &mark.1)]) {
        let path = folder.join(name);
        let write = || {
            path.parent().map_or(Ok(()), std::fs::create_dir_all)?;
            std::fs::write(&path, bytes)
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}
