//! Checks the imports of the workspace: no file takes part in a circle, and each crate uses what ARCHITECTURE.md allows.

mod crates;
mod imports;
mod names;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use self::crates::{Workspace, allowed, complaints};
use self::imports::Modules;
use crate::project;

/// A file, and another one that defines something that it names.
type Import = (PathBuf, PathBuf);

/// The imports that are part of a circle: those whose target leads back to their source.
fn circles(imports: &BTreeSet<Import>) -> BTreeSet<Import> {
    let mut onward: BTreeMap<&Path, Vec<&Path>> = BTreeMap::new();
    for (from, to) in imports {
        onward.entry(from).or_default().push(to);
    }
    let reachable: BTreeMap<&Path, BTreeSet<&Path>> = onward
        .keys()
        .map(|file| (*file, reachable(file, &onward)))
        .collect();
    imports
        .iter()
        .filter(|(from, to)| {
            reachable
                .get(to.as_path())
                .is_some_and(|files| files.contains(from.as_path()))
        })
        .cloned()
        .collect()
}

/// Files that a file imports, directly or through others.
fn reachable<'a>(start: &'a Path, onward: &BTreeMap<&'a Path, Vec<&'a Path>>) -> BTreeSet<&'a Path> {
    let (mut seen, mut next) = (BTreeSet::new(), vec![start]);
    while let Some(file) = next.pop() {
        for to in onward.get(file).into_iter().flatten() {
            if seen.insert(*to) {
                next.push(to);
            }
        }
    }
    seen
}

/// Imports as sorted lines, with paths relative to a folder.
fn lines(imports: &BTreeSet<Import>, folder: &Path) -> Vec<String> {
    let short = |path: &Path| path.strip_prefix(folder).unwrap_or(path).display().to_string();
    let mut lines: Vec<String> = imports
        .iter()
        .map(|(from, to)| format!("{} imports {}", short(from), short(to)))
        .collect();
    lines.sort();
    lines
}

#[test]
fn crates_use_what_the_architecture_allows() {
    let text = fs::read_to_string(project::root().join("ARCHITECTURE.md")).unwrap();
    let complaints = complaints(&Workspace::read().unwrap().crates(), &allowed(&text));
    assert!(complaints.is_empty(), "{}", complaints.join("\n"));
}

#[test]
fn the_table_of_crates_is_read_and_compared() {
    let text = "# Title\n\n## Crates\n\n| crate | what it is | may use |\n|---|---|---|\n\
        | `one` | says `this` | |\n| `two` | that | `one`, `four`; its tests also `three` |\n\n## Other\n\n| `x` | y | `z` |\n";
    let all = allowed(text);
    assert_eq!(all.len(), 2);
    let names = |name: &str| {
        let uses = all.get(name).unwrap();
        (Vec::from_iter(&uses.always), Vec::from_iter(&uses.in_tests))
    };
    assert_eq!(names("one"), (vec![], vec![]));
    assert_eq!(
        names("two"),
        (
            vec![&"four".to_owned(), &"one".to_owned()],
            vec![&"three".to_owned()]
        )
    );
    assert_eq!(complaints(&all, &all), [""; 0]);
    let without = text.replace("`one`, `four`", "`one`");
    assert_eq!(complaints(&all, &allowed(&without)).len(), 1, "not allowed");
    let without = text.replace("| `one` | says `this` | |\n", "");
    assert_eq!(complaints(&all, &allowed(&without)).len(), 1, "no row");
}

#[test]
fn no_file_imports_in_a_circle() {
    let mut imports = BTreeSet::new();
    for target in Workspace::read().unwrap().programs_and_libraries() {
        imports.extend(Modules::of(target).unwrap().imports());
    }
    assert!(imports.len() > 200, "only {} imports were found", imports.len());
    let circles = circles(&imports);
    let root = project::root().canonicalize().unwrap();
    assert!(
        circles.is_empty(),
        "files import each other:\n{}",
        lines(&circles, &root).join("\n")
    );
}

#[test]
fn circles_are_found_through_paths_reexports_and_macros() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    };
    write(
        "lib.rs",
        "pub mod a;\nmod b;\nmod c;\n#[cfg(all(test, feature = \"x\"))]\nmod d;\n#[cfg(not(feature = \"x\"))]\nmod c { pub mod e; }\npub use b::two;\n",
    );
    write("a.rs", "use crate::two;\npub fn one() { two() }\n");
    write(
        "b.rs",
        "pub mod inner;\npub fn two() { inner::three() }\n#[cfg(test)]\nmod tests { use crate::c::four; }\n",
    );
    write(
        "b/inner.rs",
        "pub fn three() { println!(\"{}\", crate::a::one()) }\n",
    );
    write("c.rs", "use super::a;\npub fn four() { a::one() }\n");
    let imports = Modules::of(&folder.path().join("lib.rs")).unwrap().imports();
    assert_eq!(
        lines(&imports, folder.path()),
        [
            "a.rs imports b.rs",
            "b.rs imports b/inner.rs",
            "b/inner.rs imports a.rs",
            "c.rs imports a.rs",
            "lib.rs imports b.rs",
        ]
    );
    assert_eq!(
        lines(&circles(&imports), folder.path()),
        [
            "a.rs imports b.rs",
            "b.rs imports b/inner.rs",
            "b/inner.rs imports a.rs"
        ]
    );
}
