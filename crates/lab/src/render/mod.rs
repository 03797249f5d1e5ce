//! Rendering: the output of the NixOS module for a few hosts, committed below `tests/rendered/`.
//!
//! A change to the module appears there as a readable diff, and the lab runs exactly these files. Rendering needs Nix
//! and nixpkgs; the manifest beside the files shows machines without them whether the rendering is up to date.

mod flake;
mod lints;
mod manifest;
mod nix;
mod store;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use self::manifest::OPTIONS;
use self::nix::{Evaluation, Nixpkgs};
use self::store::Store;
use crate::committed::{self, FOLDER as RENDERED, Files, Host};
use crate::project;

/// Renders every host and the options reference. With `check`, writes nothing, and fails if the committed files differ,
/// if the Nix code violates formatting or lints, or if an output of the flake does not evaluate.
///
/// Without nixpkgs, a check only compares the manifest, and reports this.
pub(crate) fn run(check: bool) -> anyhow::Result<()> {
    let project = project::root();
    if check {
        lints::run(project)?;
    }
    let Some(nixpkgs) = Nixpkgs::find()? else {
        if !check {
            bail!(
                "rendering needs nix-instantiate and nixpkgs: {}",
                nix::HOW_TO_POINT_TO_NIXPKGS
            );
        }
        println!(
            "render: not evaluated, because nixpkgs is not available ({})",
            nix::HOW_TO_POINT_TO_NIXPKGS
        );
        return check_manifest(project);
    };

    let assertions = nixpkgs.assertions(project)?;
    if !assertions.complaints.is_empty() {
        bail!(
            "assertions of the module do not fail as expected:\n{}",
            assertions.complaints.join("\n")
        );
    }
    println!(
        "render: {} configurations fail with the messages of the module's assertions",
        assertions.cases
    );

    let release = nixpkgs.release(project)?;
    let hosts = hosts(project)?;
    let evaluations = nixpkgs.evaluate(project, &hosts)?;
    let mut different = options(project, &nixpkgs, check)?;
    let mut rendered = BTreeMap::new();
    for (host, evaluation) in &evaluations {
        rendered.insert(host.clone(), render(host, evaluation)?);
    }
    let stored = committed::stored(&rendered)?;
    let folder = project.join(RENDERED);
    let mut committed = committed::read(&folder)?;
    committed.remove(Path::new(manifest::NAME));
    if check {
        if manifest::is_of(project, &release)? {
            different.extend(differences(&committed, &stored));
        } else {
            println!(
                "render: not compared, because the committed files were rendered with another nixpkgs than {release}"
            );
        }
        for difference in &different {
            print!("{difference}");
        }
        if !different.is_empty() {
            bail!(
                "{} rendered files differ from the output of the module; run `cargo lab render`",
                different.len()
            );
        }
        check_manifest(project)?;
        println!("render: {} hosts evaluate, with {release}", evaluations.len());
        flake::check(project, &nixpkgs).context("the flake")?;
    } else {
        write(&folder, &committed, &stored)?;
        std::fs::write(folder.join(manifest::NAME), manifest::made(project, &release)?)
            .context("cannot write the manifest of the rendering")?;
    }
    Ok(())
}

/// The `lib` folder of nixpkgs, and a folder with its `nixos` folder; fails if they are not at hand.
pub(crate) fn nixpkgs() -> anyhow::Result<(PathBuf, PathBuf)> {
    let found = Nixpkgs::at_hand()?
        .with_context(|| format!("nixpkgs is not available ({})", nix::HOW_TO_POINT_TO_NIXPKGS))?;
    Ok((found.lib, found.tree))
}

/// Writes the options reference, or returns the differences from the committed one.
fn options(project: &Path, nixpkgs: &Nixpkgs, check: bool) -> anyhow::Result<Vec<String>> {
    let options = nixpkgs.options(project).context("cannot describe the options")?;
    if !options.undescribed.is_empty() {
        bail!(
            "options without a description, or with neither default nor example: {}",
            options.undescribed.join(", ")
        );
    }
    let path = project.join(OPTIONS);
    let committed = match std::fs::read_to_string(&path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        read => read.with_context(|| format!("cannot read {OPTIONS}"))?,
    };
    if committed == options.text {
        return Ok(Vec::new());
    }
    if check {
        return Ok(vec![difference(OPTIONS, &committed, &options.text)]);
    }
    std::fs::write(&path, &options.text).with_context(|| format!("cannot write {OPTIONS}"))?;
    println!("render: {OPTIONS}");
    Ok(Vec::new())
}

fn check_manifest(project: &Path) -> anyhow::Result<()> {
    let complaints = manifest::complaints(project)?;
    if complaints.is_empty() {
        return Ok(());
    }
    bail!(
        "the rendering does not match its manifest:\n{}",
        complaints.join("\n")
    )
}

/// Returns all examples and the relays of the lab: the name and the configuration file of each host.
fn hosts(project: &Path) -> anyhow::Result<BTreeMap<String, PathBuf>> {
    let mut hosts = BTreeMap::new();
    for (folder, prefix) in [("examples", ""), ("nix/eval/hosts", "lab-")] {
        let folder = project.join(folder);
        for entry in folder
            .read_dir()
            .with_context(|| format!("cannot list {}", folder.display()))?
        {
            let path = entry?.path();
            let name = path
                .file_stem()
                .and_then(|stem| stem.to_str())
                .unwrap_or_default();
            if path.extension().is_some_and(|extension| extension == "nix") && name.starts_with(prefix) {
                hosts.insert(name.to_owned(), path);
            }
        }
    }
    Ok(hosts)
}

/// Renders a host in the format that `machine/` installs in a container.
fn render(host: &str, evaluation: &Evaluation) -> anyhow::Result<Host> {
    if !evaluation.failed.is_empty() {
        bail!(
            "{host} fails assertions of the module:\n{}",
            evaluation.failed.join("\n")
        );
    }
    for warning in &evaluation.warnings {
        eprintln!("render: {host}: {warning}");
    }
    let mut files = Files::new();
    let mut store = Store::default();
    let mut etc = Vec::new();
    for (path, source) in &evaluation.etc {
        let entry = store
            .entry(source)
            .with_context(|| format!("{host}: /etc/{path}"))?;
        etc.push(format!("{path} {entry}"));
    }
    for (name, text) in &evaluation.units {
        let text = store.strip(text).with_context(|| format!("{host}: {name}"))?;
        files.insert(Path::new("units").join(name), text);
    }
    for (name, lines) in [
        ("etc", &etc),
        ("firewall", &evaluation.firewall),
        ("wants", &evaluation.wants),
        ("sysusers.conf", &evaluation.sysusers),
        ("tmpfiles.conf", &evaluation.tmpfiles),
    ] {
        files.insert(
            PathBuf::from(name),
            lines.iter().map(|line| format!("{line}\n")).collect(),
        );
    }
    for (path, text) in store.into_files() {
        files.insert(Path::new("store").join(path), text);
    }
    Ok(Host {
        domain: evaluation.domain.clone(),
        files,
    })
}

/// Returns the differences between the committed and the newly rendered files, by file.
fn differences(committed: &Files, stored: &Files) -> Vec<String> {
    let mut paths: Vec<_> = committed.keys().chain(stored.keys()).collect();
    paths.sort();
    paths.dedup();
    let text = |files: &Files, path| files.get(path).cloned().unwrap_or_default();
    paths
        .into_iter()
        .filter(|path| committed.get(*path) != stored.get(*path))
        .map(|path| {
            let name = format!("{RENDERED}/{}", path.display());
            difference(&name, &text(committed, path), &text(stored, path))
        })
        .collect()
}

fn difference(name: &str, committed: &str, rendered: &str) -> String {
    similar::TextDiff::from_lines(committed, rendered)
        .unified_diff()
        .header(&format!("{name} (committed)"), &format!("{name} (rendered)"))
        .to_string()
}

/// Replaces the committed files with the newly rendered ones.
fn write(folder: &Path, committed: &Files, stored: &Files) -> anyhow::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;

    for path in committed.keys().filter(|path| !stored.contains_key(*path)) {
        let path = folder.join(path);
        std::fs::remove_file(&path).with_context(|| format!("cannot remove {}", path.display()))?;
        // Also remove folders that are now empty.
        let _ = path
            .ancestors()
            .skip(1)
            .take_while(|parent| *parent != folder)
            .try_for_each(std::fs::remove_dir);
    }
    for (path, text) in stored
        .iter()
        .filter(|(path, text)| committed.get(*path) != Some(*text))
    {
        println!("render: {RENDERED}/{}", path.display());
        let path = folder.join(path);
        let write = || {
            if let Some(parent) = path.parent() {
                std::fs::create_dir_all(parent)?;
            }
            std::fs::write(&path, text)?;
            let mode = if text.starts_with("#!") { 0o755 } else { 0o644 };
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode))
        };
        write().with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also runs without Nix.
    #[test]
    fn nobody_forgot_to_render() {
        let complaints = manifest::complaints(project::root()).unwrap();
        assert!(
            complaints.is_empty(),
            "run `cargo lab render`:\n{}",
            complaints.join("\n")
        );
    }

    #[test]
    fn a_difference_names_the_file_and_both_sides() {
        let committed = Files::from([(PathBuf::from("host/etc/a"), "1\n2\n".to_owned())]);
        let rendered = Files::from([
            (PathBuf::from("host/etc/a"), "1\n3\n".to_owned()),
            (PathBuf::from("host/etc/b"), "new\n".to_owned()),
        ]);
        insta::assert_snapshot!(differences(&committed, &rendered).concat());
    }
}
