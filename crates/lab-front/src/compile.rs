//! Compiles the lab and the services in one go.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use lab_front::paths::Paths;
use lab_front::tasks::Task;
use lab_front::{prerequisites, project};

use crate::call::Call;

/// CPU time that it took from nothing where it was measured: the programs of the demo, all of the lab, both as for a
/// release.
const SECONDS: [(bool, bool, u64); 3] = [(false, false, 150), (true, false, 300), (true, true, 900)];

/// What looks at the form of the Nix code: package, version, program.
const NIX_TOOLS: [(&str, &str, &str); 2] =
    [("nixfmt_rs", "0.5.3", "nixfmt"), ("deadnix", "1.3.1", "deadnix")];

/// A build of the workspace.
pub(crate) struct Build {
    everything: bool,
    optimised: bool,
    folder: PathBuf,
}

impl Build {
    /// The build that a command line asks for. Once everything has been compiled, that is kept up to date: compiling a
    /// part of it again would only add to it.
    pub(crate) fn of(call: &Call) -> anyhow::Result<Self> {
        let own = std::env::current_exe().context("cannot find this program")?;
        let target = own
            .parent()
            .and_then(Path::parent)
            .context("this program is in no target directory")?;
        let folder = target.join(profile(call.optimised));
        let everything = call.everything || marker(&folder).exists();
        Ok(Self {
            everything,
            optimised: call.optimised,
            folder,
        })
    }

    /// Compiles it.
    pub(crate) fn task(&self, paths: &Paths) -> Task {
        let mut command = project::cargo();
        command
            .args([
                "build",
                "--locked",
                "--workspace",
                "--exclude=lab-front",
                "--bins",
            ])
            .args(["--profile", profile(self.optimised)])
            .arg("--message-format=json-render-diagnostics")
            .current_dir(project::root());
        if !self.everything {
            command.arg("--no-default-features");
        }
        // A build that only has to catch up with changes takes as long as these are large.
        let seconds = if self.program().exists() {
            0
        } else {
            SECONDS
                .iter()
                .find(|(everything, optimised, _)| {
                    (*everything, *optimised) == (self.everything, self.optimised)
                })
                .map_or(0, |(.., seconds)| *seconds)
        };
        let marker = self.everything.then(|| marker(&self.folder));
        Task::new(
            "Compiling the lab and the services",
            seconds,
            command,
            &paths.log("cargo"),
        )
        .output(&self.list())
        .then(move || match marker {
            Some(marker) => {
                fs::write(&marker, "").with_context(|| format!("cannot write {}", marker.display()))
            }
            None => Ok(()),
        })
    }

    /// The lab.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("lab")
    }

    /// Where what cargo prints is kept: the list of all programs.
    pub(crate) fn list(&self) -> PathBuf {
        self.folder.join("lab-build.json")
    }
}

fn profile(optimised: bool) -> &'static str {
    if optimised { "release" } else { "lab" }
}

/// Says that a folder holds a lab with everything.
fn marker(folder: &Path) -> PathBuf {
    folder.join("lab-is-whole")
}

/// Compiles the tools for the Nix code that are not installed. They have little to do, so they are not optimised.
pub(crate) fn nix_tools(paths: &Paths) -> Vec<Task> {
    let tools = paths.tools();
    let missing = NIX_TOOLS.iter().filter(|(.., program)| {
        !prerequisites::on_path(program) && !tools.join("bin").join(program).exists()
    });
    missing
        .map(|(package, version, program)| {
            let mut command: Command = project::cargo();
            command
                .args(["install", "--locked", "--debug", "--root"])
                .arg(&tools)
                .arg(format!("{package}@{version}"))
                .env_remove("CARGO_TARGET_DIR");
            let name = format!("Compiling {program}, which looks at the Nix code");
            Task::new(&name, 30, command, &paths.log(program))
        })
        .collect()
}
