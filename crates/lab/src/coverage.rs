//! Checks that the scenarios and tests that `docs/coverage.md` names for each requirement exist.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::project;
use crate::scenarios;

/// A row of a table: its first column, and the names in backticks in its last one.
#[derive(Debug, PartialEq, Eq)]
struct Row<'a> {
    asked: &'a str,
    proofs: Vec<&'a str>,
}

/// Rows of all tables of a Markdown text, without the header rows.
fn rows(text: &str) -> Vec<Row<'_>> {
    let mut found = Vec::new();
    let mut lines = text.lines().peekable();
    while let Some(line) = lines.next() {
        let is_head = lines.peek().is_some_and(|next| next.starts_with("|---"));
        if !line.starts_with("| ") || is_head {
            continue;
        }
        let mut cells = line.trim_matches('|').split(" | ").map(str::trim);
        let asked = cells.next().unwrap_or_default();
        let proofs = cells.last().unwrap_or_default().split('`').skip(1).step_by(2);
        found.push(Row {
            asked,
            proofs: proofs.collect(),
        });
    }
    found
}

/// Names of the tests below a crate's folder.
fn tests(folder: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut names = BTreeSet::new();
    for file in project::files_below(folder)? {
        if file.extension().is_some_and(|extension| extension == "rs") {
            names.extend(tests_in(&fs::read_to_string(folder.join(file))?));
        }
    }
    Ok(names)
}

fn tests_in(source: &str) -> Vec<String> {
    let mut names = Vec::new();
    let mut is_test = false;
    for line in source.lines().map(str::trim_start) {
        let attribute = line.trim_start_matches("#[").trim_start_matches("tokio::");
        if line.starts_with("#[") && attribute.starts_with("test") {
            is_test = true;
        }
        let function = line.trim_start_matches("async ").strip_prefix("fn ");
        if let Some(function) = function.filter(|_| is_test) {
            let end = function.find(['(', '<']).unwrap_or(function.len());
            names.push(function.get(..end).unwrap_or_default().to_owned());
            is_test = false;
        }
    }
    names
}

/// Names of the configurations that the module must reject.
fn refused_configurations(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let source = fs::read_to_string(root.join("nix/eval/assertions.nix"))?;
    Ok(source
        .lines()
        .filter_map(|line| line.strip_prefix("    ")?.strip_suffix(" = {"))
        .map(str::to_owned)
        .collect())
}

/// Everything that a row can name: scenarios by their names, tests as `crate::test`, and rejected configurations as
/// `assertion::configuration`.
fn known(root: &Path) -> anyhow::Result<BTreeSet<String>> {
    let mut known: BTreeSet<String> = scenarios::all()
        .iter()
        .map(|scenario| scenario.name.to_owned())
        .collect();
    known.extend(
        refused_configurations(root)?
            .into_iter()
            .map(|name| format!("assertion::{name}")),
    );
    for entry in fs::read_dir(root.join("crates"))? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        known.extend(
            tests(&entry.path())?
                .into_iter()
                .map(|test| format!("{name}::{test}")),
        );
    }
    Ok(known)
}

#[test]
fn every_row_has_a_proof_that_exists() {
    let root = project::root();
    let text = fs::read_to_string(root.join("docs/coverage.md")).unwrap();
    let known = known(root).unwrap();
    let rows = rows(&text);
    assert!(rows.len() > 100, "only {} rows are left", rows.len());
    let mut wrong = BTreeMap::new();
    for row in &rows {
        if row.proofs.is_empty() {
            wrong.insert(row.asked, vec!["nothing"]);
        }
        let missing: Vec<&str> = row
            .proofs
            .iter()
            .copied()
            .filter(|proof| !known.contains(*proof))
            .collect();
        if !missing.is_empty() {
            wrong.insert(row.asked, missing);
        }
    }
    assert!(wrong.is_empty(), "rows with proofs that do not exist: {wrong:#?}");
}

#[test]
fn every_scenario_proves_something() {
    let text = fs::read_to_string(project::root().join("docs/coverage.md")).unwrap();
    let rows = rows(&text);
    let named: BTreeSet<&str> = rows.iter().flat_map(|row| row.proofs.iter().copied()).collect();
    let unnamed: Vec<&str> = scenarios::all()
        .iter()
        .map(|scenario| scenario.name)
        .filter(|name| !named.contains(name))
        .collect();
    assert!(
        unnamed.is_empty(),
        "docs/coverage.md does not name these scenarios: {unnamed:?}"
    );
}

#[test]
fn tables_are_read() {
    let text = "# Head\n\n| Asked | Proved by |\n|---|---|\n| A | `one`, `b::two` |\n| B | no proof |\n\n\
                | Attack | What happens | Proved by |\n|---|---|---|\n| C | `523` | `three` |\n";
    assert_eq!(
        rows(text),
        [
            Row {
                asked: "A",
                proofs: vec!["one", "b::two"],
            },
            Row {
                asked: "B",
                proofs: vec![],
            },
            Row {
                asked: "C",
                proofs: vec!["three"],
            },
        ]
    );
}

#[test]
fn only_functions_that_run_are_tests() {
    let source = "fn helper() {}\n#[test]\nfn one() {}\n#[tokio::test(start_paused = true)]\n\
                  async fn two() {}\nproptest! {\n  #[test]\n  fn three(x in 0..2) {}\n}\nfn other() {}";
    assert_eq!(tests_in(source), ["one", "two", "three"]);
}
