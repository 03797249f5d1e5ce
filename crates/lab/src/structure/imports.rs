//! Reads the modules of a crate, and finds which file names something that another one defines.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;

use super::Import;
use super::names::{Names, is_compiled};

/// Maximum length of a chain of re-exports.
const MAX_REEXPORTS: usize = 8;

/// One module of a target.
struct Module {
    file: PathBuf,
    parent: Option<usize>,
    children: BTreeMap<String, usize>,
    names: Names,
}

/// The modules of one target, its root first.
pub(super) struct Modules(Vec<Module>);

impl Modules {
    /// Reads a target, beginning with its root file.
    pub(super) fn of(root: &Path) -> anyhow::Result<Self> {
        let mut modules = Self(Vec::new());
        let folder = root.parent().unwrap_or(root).to_owned();
        modules.add_file(root, &folder, None)?;
        Ok(modules)
    }

    /// Adds the module in `file`, and its submodules, whose files are in `folder`.
    fn add_file(&mut self, file: &Path, folder: &Path, parent: Option<usize>) -> anyhow::Result<usize> {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let parsed = syn::parse_file(&text).with_context(|| format!("cannot parse {}", file.display()))?;
        self.add(file, folder, parent, &parsed.items)
    }

    fn add(
        &mut self,
        file: &Path,
        folder: &Path,
        parent: Option<usize>,
        items: &[syn::Item],
    ) -> anyhow::Result<usize> {
        let index = self.0.len();
        self.0.push(Module {
            file: file.to_owned(),
            parent,
            children: BTreeMap::new(),
            names: Names::of(items),
        });
        for item in items.iter().filter(|item| is_compiled(item)) {
            let syn::Item::Mod(module) = item else { continue };
            let name = module.ident.to_string();
            let below = folder.join(&name);
            let beside = folder.join(format!("{name}.rs"));
            let child = match &module.content {
                Some((_, items)) => self.add(file, &below, Some(index), items)?,
                None if beside.is_file() => self.add_file(&beside, &below, Some(index))?,
                None => self.add_file(&below.join("mod.rs"), &below, Some(index))?,
            };
            if let Some(module) = self.0.get_mut(index) {
                module.children.insert(name, child);
            }
        }
        Ok(index)
    }

    /// The module that defines what `path` means in the module `at`, or `None` if another crate defines it.
    fn resolve(&self, at: usize, path: &[String], depth: usize) -> Option<usize> {
        let (first, mut rest) = path.split_first()?;
        let mut here = match first.as_str() {
            "crate" => 0,
            "self" => at,
            "super" => self.0.get(at)?.parent?,
            name => *self.0.get(at)?.children.get(name)?,
        };
        while let Some((name, later)) = rest.split_first() {
            let module = self.0.get(here)?;
            if name == "super" {
                here = module.parent?;
            } else if let Some(child) = module.children.get(name) {
                here = *child;
            } else if module.names.defined.contains(name) || depth == 0 {
                return Some(here);
            } else {
                let import = module.names.imported.iter().find(|(known, _)| known == name);
                let through = match import {
                    Some((_, target)) => self.resolve(here, target, depth - 1),
                    None => module.names.globs.iter().find_map(|target| {
                        let target = self.resolve(here, target, depth - 1)?;
                        let defined = &self.0.get(target)?.names.defined;
                        defined.contains(name).then_some(target)
                    }),
                };
                return Some(through.unwrap_or(here));
            }
            rest = later;
        }
        Some(here)
    }

    /// Finds which file names something that another one defines.
    pub(super) fn imports(&self) -> BTreeSet<Import> {
        let mut found = BTreeSet::new();
        for (index, module) in self.0.iter().enumerate() {
            let names = &module.names;
            let imported = names.imported.iter().map(|(_, path)| path);
            for path in imported.chain(&names.globs).chain(&names.paths) {
                let target = self.resolve(index, path, MAX_REEXPORTS);
                if let Some(target) = target.and_then(|target| self.0.get(target))
                    && target.file != module.file
                {
                    found.insert((module.file.clone(), target.file.clone()));
                }
            }
        }
        found
    }
}
