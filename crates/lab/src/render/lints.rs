//! Form and lints of the Nix code, where their programs are at hand.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, bail};

use crate::project::files_below;

/// Programs with the arguments that make them only look; the files follow.
const PROGRAMS: [(&str, &[&str]); 2] = [("nixfmt", &["--check"]), ("deadnix", &["--fail"])];

/// Folders of the project that hold Nix code, and the flake.
const SOURCES: [&str; 5] = ["examples", "flake.nix", "nix", "nixos", "tests"];

/// Fails when a program has found something. Says which ones are missing.
pub(super) fn run(project: &Path) -> anyhow::Result<()> {
    let files = nix_files(project)?;
    for (program, arguments) in PROGRAMS {
        let output = Command::new(program)
            .args(arguments)
            .args(&files)
            .current_dir(project)
            .output();
        let output = match output {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                println!("render: {program} not run, it is not installed");
                continue;
            }
            other => other.with_context(|| format!("cannot run {program}"))?,
        };
        if !output.status.success() {
            let text = [output.stdout, output.stderr].concat();
            bail!("{program}:\n{}", String::from_utf8_lossy(&text).trim_end());
        }
    }
    println!("render: {} files of Nix code were looked at", files.len());
    Ok(())
}

/// The Nix code, by path in the project.
fn nix_files(project: &Path) -> anyhow::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for top in SOURCES {
        if project.join(top).is_file() {
            files.push(PathBuf::from(top));
            continue;
        }
        let below = files_below(&project.join(top))?;
        files.extend(below.into_iter().map(|file| Path::new(top).join(file)));
    }
    files.retain(|file| file.extension().is_some_and(|extension| extension == "nix"));
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project;

    #[test]
    fn nix_code_is_found_everywhere() {
        let files = nix_files(project::root()).unwrap();
        for known in ["flake.nix", "nixos/default.nix", "tests/vm/default.nix"] {
            assert!(files.contains(&PathBuf::from(known)), "{known}");
        }
    }
}
