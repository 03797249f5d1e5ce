//! The flake as others import it: every output evaluates with parts of nixpkgs in place of its only input.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail, ensure};
use serde::de::DeserializeOwned;

use super::nix::Nixpkgs;
use crate::project::files_below;

/// The sources of the flake's outputs, and files on which they must not depend.
const SOURCES: [&str; 15] = [
    "ARCHITECTURE.md",
    "Cargo.lock",
    "Cargo.toml",
    "README.md",
    "clippy.toml",
    "crates",
    "docs",
    "examples",
    "flake.lock",
    "flake.nix",
    "nix",
    "nixos",
    "rustfmt.toml",
    "tests",
    "www",
];

/// A documentation file: changing it must not rebuild packages.
const DOCUMENTATION: &str = "README.md";
/// A source file of the services: changing it must rebuild packages.
const SERVICE: &str = "crates/doveauth/src/lib.rs";

/// The package to test with both.
const PACKAGE: &str = "packages.x86_64-linux.chatmail.drvPath";

/// The VM tests, and an expression that returns their scripts by name.
const CHECKS: &str = "checks.x86_64-linux";
const SCRIPTS: &str = "checks: builtins.listToAttrs (map \
     (name: { inherit name; value = checks.${name}.config.testScriptString; }) \
     (builtins.filter (name: builtins.substring 0 3 name == \"vm-\") (builtins.attrNames checks)))";

/// Evaluates all outputs as `nix flake check` does, checks the Python syntax of the scripts of VM tests, and checks
/// that only changes to its sources rebuild a package.
pub(super) fn check(project: &Path, nixpkgs: &Nixpkgs) -> anyhow::Result<()> {
    let folder = tempfile::tempdir()?;
    let flake = Flake::copy(project, nixpkgs, folder.path())?;
    flake.nix(&["flake", "check", "--no-build", &flake.reference("")])?;
    println!("render: every output of the flake evaluates");

    let scripts: BTreeMap<String, String> = flake.eval(CHECKS, &["--apply", SCRIPTS])?;
    ensure!(!scripts.is_empty(), "{CHECKS} has no VM test");
    for (name, script) in &scripts {
        compile(script).with_context(|| format!("the script of {CHECKS}.{name}"))?;
    }
    println!(
        "render: {} scripts of VM tests have valid Python syntax",
        scripts.len()
    );

    let before: String = flake.eval(PACKAGE, &[])?;
    flake.touch(DOCUMENTATION)?;
    ensure!(
        before == flake.eval::<String>(PACKAGE, &[])?,
        "a change to {DOCUMENTATION} rebuilds the services"
    );
    flake.touch(SERVICE)?;
    ensure!(
        before != flake.eval::<String>(PACKAGE, &[])?,
        "a change to {SERVICE} does not rebuild the services"
    );
    println!("render: changes to their sources rebuild the services, and changes to documentation do not");
    Ok(())
}

/// A copy of the project, with a substitute for nixpkgs beside it.
struct Flake {
    project: PathBuf,
    nixpkgs: PathBuf,
}

impl Flake {
    fn copy(project: &Path, nixpkgs: &Nixpkgs, folder: &Path) -> anyhow::Result<Self> {
        let copy = folder.join("project");
        for top in SOURCES {
            let from = project.join(top);
            let files = if from.is_file() {
                vec![PathBuf::new()]
            } else {
                files_below(&from)?
            };
            for file in files {
                let inner = Path::new(top).join(file);
                // Joining an empty path would append a slash.
                let inner: PathBuf = inner.components().collect();
                let to = copy.join(&inner);
                let written = to
                    .parent()
                    .map_or(Ok(()), std::fs::create_dir_all)
                    .and_then(|()| std::fs::copy(project.join(&inner), &to));
                written.with_context(|| format!("cannot copy {}", inner.display()))?;
            }
        }
        let stand_in = folder.join("nixpkgs");
        std::fs::create_dir_all(&stand_in)?;
        std::fs::write(stand_in.join("flake.nix"), nixpkgs.flake(project)?)
            .context("cannot write the flake that replaces nixpkgs")?;
        Ok(Self {
            project: copy,
            nixpkgs: stand_in,
        })
    }

    /// Returns the flake reference of an output.
    fn reference(&self, output: &str) -> String {
        let separator = if output.is_empty() { "" } else { "#" };
        format!("path:{}{separator}{output}", self.project.display())
    }

    fn eval<T: DeserializeOwned>(&self, output: &str, more: &[&str]) -> anyhow::Result<T> {
        let reference = self.reference(output);
        let mut arguments = vec!["eval", "--json", &reference];
        arguments.extend(more);
        let json = self.nix(&arguments)?;
        serde_json::from_slice(&json).with_context(|| format!("{output} has an unexpected format"))
    }

    /// Runs Nix; returns its output.
    fn nix(&self, arguments: &[&str]) -> anyhow::Result<Vec<u8>> {
        let output = Command::new("nix")
            .args(arguments)
            .args(["--extra-experimental-features", "nix-command flakes"])
            // Nix must not build or fetch anything.
            .args([
                "--option",
                "sandbox",
                "false",
                "--option",
                "substitute",
                "false",
                "--offline",
            ])
            .arg("--no-write-lock-file")
            .args(["--override-input", "nixpkgs"])
            .arg(format!("path:{}", self.nixpkgs.display()))
            .output()
            .context("cannot run nix")?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            bail!("nix {}:\n{}", arguments.join(" "), text.trim_end());
        }
        Ok(output.stdout)
    }

    /// Changes a file in the copy.
    fn touch(&self, file: &str) -> anyhow::Result<()> {
        let path = self.project.join(file);
        let text = std::fs::read_to_string(&path).with_context(|| format!("cannot read {file}"))?;
        std::fs::write(&path, text + "\n").with_context(|| format!("cannot change {file}"))
    }
}

/// Compiles a script with Python without running it.
fn compile(script: &str) -> anyhow::Result<()> {
    let mut python = Command::new("python3")
        .args(["-c", "import sys; compile(sys.stdin.read(), 'script', 'exec')"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run python3")?;
    let mut stdin = python.stdin.take().context("python3 has no standard input")?;
    stdin.write_all(script.as_bytes())?;
    drop(stdin);
    let output = python.wait_with_output()?;
    if !output.status.success() {
        bail!("{}", String::from_utf8_lossy(&output.stderr).trim_end());
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn python_refuses_what_is_no_script() {
        compile("start_all()\n").unwrap();
        let error = compile("with subtest('x')\n").unwrap_err().to_string();
        assert!(error.contains("SyntaxError"), "{error}");
    }
}
