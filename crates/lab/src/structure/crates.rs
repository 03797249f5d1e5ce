//! The crates of the workspace, as cargo knows them and as ARCHITECTURE.md lists them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use serde::Deserialize;

use crate::project;

/// Crates of the workspace that a crate uses.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Uses {
    pub(super) always: BTreeSet<String>,
    pub(super) in_tests: BTreeSet<String>,
}

/// What `cargo metadata` says about the workspace.
#[derive(Deserialize)]
pub(super) struct Workspace {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    dependencies: Vec<Dependency>,
    targets: Vec<Target>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    /// `dev` or `build`; null for ordinary dependencies.
    kind: Option<String>,
    /// Set only for crates of this tree.
    path: Option<PathBuf>,
}

#[derive(Deserialize)]
struct Target {
    kind: Vec<String>,
    src_path: PathBuf,
}

impl Workspace {
    pub(super) fn read() -> anyhow::Result<Self> {
        let output = project::cargo()
            .args(["metadata", "--no-deps", "--offline", "--format-version=1"])
            .current_dir(project::root())
            .output()
            .context("cannot run cargo metadata")?;
        if !output.status.success() {
            bail!(
                "cargo metadata failed: {}",
                String::from_utf8_lossy(&output.stderr)
            );
        }
        serde_json::from_slice(&output.stdout).context("cannot read the output of cargo metadata")
    }

    /// Which crates of the workspace each crate uses. `in_tests` contains only those that `always` does not.
    pub(super) fn crates(&self) -> BTreeMap<String, Uses> {
        let uses = |package: &Package| {
            let mut uses = Uses::default();
            for used in package.dependencies.iter().filter(|used| used.path.is_some()) {
                let names = match used.kind.as_deref() {
                    Some("dev") => &mut uses.in_tests,
                    _ => &mut uses.always,
                };
                names.insert(used.name.clone());
            }
            uses.in_tests.retain(|name| !uses.always.contains(name));
            uses
        };
        self.packages
            .iter()
            .map(|package| (package.name.clone(), uses(package)))
            .collect()
    }

    /// The root files of all programs and libraries.
    pub(super) fn programs_and_libraries(&self) -> impl Iterator<Item = &Path> {
        self.packages
            .iter()
            .flat_map(|package| &package.targets)
            .filter(|target| target.kind.iter().any(|kind| kind == "lib" || kind == "bin"))
            .map(|target| target.src_path.as_path())
    }
}

/// One line for each crate that uses other crates than its row in the table says.
pub(super) fn complaints(used: &BTreeMap<String, Uses>, allowed: &BTreeMap<String, Uses>) -> Vec<String> {
    let names: BTreeSet<&String> = used.keys().chain(allowed.keys()).collect();
    names
        .into_iter()
        .filter(|name| used.get(*name) != allowed.get(*name))
        .map(|name| match (used.get(name), allowed.get(name)) {
            (Some(used), Some(allowed)) => {
                format!("{name} uses {used:?}; the table in ARCHITECTURE.md says {allowed:?}")
            }
            (Some(_), None) => format!("{name} has no row in the table in ARCHITECTURE.md"),
            (None, _) => format!("the table in ARCHITECTURE.md has a row for {name}, which is not a crate"),
        })
        .collect()
}

/// Rows of the table below `## Crates`: a crate, and the names in backticks in its last column. Names after a semicolon
/// are those of crates that only its tests use.
pub(super) fn allowed(text: &str) -> BTreeMap<String, Uses> {
    let names = |text: &str| text.split('`').skip(1).step_by(2).map(str::to_owned).collect();
    let section = text.split("\n## ").find(|part| part.starts_with("Crates\n"));
    section
        .unwrap_or_default()
        .lines()
        .filter_map(|row| {
            let mut cells = row.strip_prefix("| `")?.trim_end_matches('|').split(" | ");
            let name = cells.next()?.trim_end_matches('`').to_owned();
            let last = cells.last()?;
            let (always, in_tests) = last.split_once(';').unwrap_or((last, ""));
            let uses = Uses {
                always: names(always),
                in_tests: names(in_tests),
            };
            Some((name, uses))
        })
        .collect()
}
