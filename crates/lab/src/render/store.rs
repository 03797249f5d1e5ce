//! Texts in the Nix store: collected by the paths that refer to them, with hashes removed.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

const STORE: &str = "/nix/store/";
/// Length of the hash in a store path.
const HASH_LENGTH: usize = 32;

/// A store path in a text.
#[derive(Debug, PartialEq, Eq)]
struct Reference<'a> {
    /// `HASH-NAME`.
    entry: &'a str,
    /// `NAME`.
    name: &'a str,
    /// The rest of the path, without the leading slash; may be empty.
    below: &'a str,
}

/// Collects the texts to which rendered files refer. Paths that do not exist on this machine are packages: they were
/// evaluated but not built.
#[derive(Debug, Default)]
pub(super) struct Store {
    files: BTreeMap<PathBuf, String>,
    seen: BTreeSet<String>,
}

impl Store {
    /// Collects the text at a store path; returns its name in the store.
    pub(super) fn entry(&mut self, path: &Path) -> anyhow::Result<String> {
        let reference = path
            .to_str()
            .and_then(|path| reference(path.strip_prefix(STORE)?));
        let reference = reference.with_context(|| format!("{} is not in the store", path.display()))?;
        self.collect(&reference)?;
        Ok(match reference.below {
            "" => reference.name.to_owned(),
            below => format!("{}/{below}", reference.name),
        })
    }

    fn text_at(&mut self, path: &Path) -> anyhow::Result<String> {
        let text =
            std::fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))?;
        self.strip(&text)
    }

    /// Removes the hashes from store paths in a text, and collects the texts at those paths.
    pub(super) fn strip(&mut self, text: &str) -> anyhow::Result<String> {
        let mut stripped = String::with_capacity(text.len());
        let mut rest = text;
        while let Some((before, after)) = rest.split_once(STORE) {
            stripped.push_str(before);
            stripped.push_str(STORE);
            rest = after;
            if let Some(reference) = reference(after) {
                self.collect(&reference)?;
                stripped.push_str(reference.name);
                rest = after.strip_prefix(reference.entry).unwrap_or(after);
            }
        }
        stripped.push_str(rest);
        Ok(stripped)
    }

    /// Returns the collected texts by their path in the store.
    pub(super) fn into_files(self) -> BTreeMap<PathBuf, String> {
        self.files
    }

    fn collect(&mut self, reference: &Reference<'_>) -> anyhow::Result<()> {
        let path = Path::new(STORE).join(reference.entry);
        if path.is_dir() {
            for file in crate::project::files_below(&path)? {
                self.collect_file(&path.join(&file), &Path::new(reference.name).join(&file))?;
            }
        } else if path.is_file() {
            // For a program in its own package, the text is stored as one file; this is its path in the package.
            let target = Path::new(reference.name).join(reference.below);
            self.collect_file(
                &path,
                if reference.below.is_empty() {
                    Path::new(reference.name)
                } else {
                    &target
                },
            )?;
        }
        Ok(())
    }

    fn collect_file(&mut self, path: &Path, target: &Path) -> anyhow::Result<()> {
        if !self
            .seen
            .insert(format!("{} {}", path.display(), target.display()))
        {
            return Ok(());
        }
        let text = self.text_at(path)?;
        match self.files.get(target) {
            Some(other) if *other != text => {
                bail!(
                    "two different files in the store are both called {}: give them different names",
                    target.display()
                )
            }
            _ => self.files.insert(target.to_owned(), text),
        };
        Ok(())
    }
}

/// Parses the part after `/nix/store/`.
fn reference(text: &str) -> Option<Reference<'_>> {
    let end = text
        .find(|c: char| !(c.is_ascii_alphanumeric() || "+-._?=/".contains(c)))
        .unwrap_or(text.len());
    let path = text.get(..end)?.trim_end_matches(['.', '/']);
    let (entry, below) = path.split_once('/').unwrap_or((path, ""));
    let (hash, name) = entry.split_at_checked(HASH_LENGTH)?;
    let name = name.strip_prefix('-')?;
    let is_hash = hash.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    (is_hash && !name.is_empty()).then_some(Reference { entry, name, below })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HASH: &str = "0123456789abcdfghijklmnpqrsvwxyz";

    #[test]
    fn hashes_are_taken_out_of_store_paths_only() {
        let text = format!("a /nix/store/{HASH}-postfix/bin/postfix, /nix/store/x {HASH}-y /nix/store/");
        assert_eq!(
            Store::default().strip(&text).unwrap(),
            format!("a /nix/store/postfix/bin/postfix, /nix/store/x {HASH}-y /nix/store/")
        );
    }

    #[test]
    fn a_reference_ends_where_the_path_does() {
        let text = format!("{HASH}-a-1.conf.");
        assert_eq!(
            reference(&text),
            Some(Reference {
                entry: text.trim_end_matches('.'),
                name: "a-1.conf",
                below: "",
            })
        );
        let text = format!("{HASH}-setup/bin/setup;");
        assert_eq!(reference(&text).unwrap().below, "bin/setup");
        assert_eq!(reference("short-a"), None);
        assert_eq!(reference(&format!("{HASH}é-a")), None);
    }
}
