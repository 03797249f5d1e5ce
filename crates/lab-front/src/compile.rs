//! Compiles the lab and the services with one cargo command.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use lab_front::paths::Paths;
use lab_front::tasks::Task;
use lab_front::{prerequisites, project};

use crate::call::Call;

/// Measured CPU time of a full build: whether the lab is complete, whether the profile is `release`, and the seconds.
const SECONDS: [(bool, bool, u64); 3] = [(false, false, 150), (true, false, 300), (true, true, 900)];

/// Tools that check the Nix code: package, version, program.
const NIX_TOOLS: [(&str, &str, &str); 2] =
    [("nixfmt_rs", "0.5.3", "nixfmt"), ("deadnix", "1.3.1", "deadnix")];

/// A build of the workspace.
pub(crate) struct Build {
    everything: bool,
    optimised: bool,
    folder: PathBuf,
}

impl Build {
    /// The build that a command needs. If the complete lab has been compiled before, it is updated instead of a smaller
    /// one, which would have to be compiled as well.
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

    /// The task that runs cargo.
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
        // The duration of an incremental build is not known: it depends on the changes.
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

    /// Path of the lab's program.
    pub(crate) fn program(&self) -> PathBuf {
        self.folder.join("lab")
    }

    /// File with the messages of cargo, which name all programs.
    pub(crate) fn list(&self) -> PathBuf {
        self.folder.join("lab-build.json")
    }
}

fn profile(optimised: bool) -> &'static str {
    if optimised { "release" } else { "lab" }
}

/// A file that exists if the lab in this folder is complete.
fn marker(folder: &Path) -> PathBuf {
    folder.join("lab-is-whole")
}

/// Tasks that compile missing tools for the Nix code, without optimisation, because the tools have little to do.
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
            let name = format!("Compiling {program}, which checks the Nix code");
            Task::new(&name, 30, command, &paths.log(program))
        })
        .collect()
}
