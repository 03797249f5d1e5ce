//! The relays' programs, which cargo builds together with the lab.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use lab_front::programs::VARIABLE;
use serde::Deserialize;

/// A message of `cargo build --message-format=json`; only messages about programs name an executable.
#[derive(Debug, Deserialize)]
struct Message {
    executable: Option<PathBuf>,
}

/// The relays' programs, from the same build as this lab.
pub(super) fn built() -> anyhow::Result<Vec<PathBuf>> {
    let list = std::env::var_os(VARIABLE).context("relays can only be started with `cargo lab`")?;
    let list = PathBuf::from(list);
    let text = fs::read_to_string(&list).with_context(|| format!("cannot read {}", list.display()))?;
    let programs = programs(&text).with_context(|| list.display().to_string())?;
    ensure!(!programs.is_empty(), "{} names no program", list.display());
    Ok(programs)
}

fn programs(messages: &str) -> anyhow::Result<Vec<PathBuf>> {
    let mut programs = Vec::new();
    for line in messages.lines() {
        let message: Message = serde_json::from_str(line).context("cannot parse the output of cargo")?;
        programs.extend(message.executable);
    }
    programs.retain(|program| !program.ends_with("lab"));
    programs.sort();
    Ok(programs)
}

/// Names of programs.
pub(super) fn names(programs: &[PathBuf]) -> Vec<String> {
    programs
        .iter()
        .filter_map(|path| path.file_name()?.to_str().map(str::to_owned))
        .collect()
}

/// Copies the programs to the folder that is bound into the relays, so that the next build does not change running ones.
pub(super) fn stage(programs: &[PathBuf], folder: &Path) -> anyhow::Result<()> {
    if folder.exists() {
        fs::remove_dir_all(folder).with_context(|| format!("cannot remove {}", folder.display()))?;
    }
    fs::create_dir_all(folder)?;
    for program in programs {
        let name = program.file_name().context("a program has no name")?;
        fs::copy(program, folder.join(name)).with_context(|| format!("cannot copy {}", program.display()))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_what_cargo_names_without_the_lab() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","executable":null,"fresh":true}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/lab/newemail"}"#,
            "\n",
            r#"{"reason":"compiler-artifact","executable":"/t/lab/lab"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(programs(messages).unwrap(), [PathBuf::from("/t/lab/newemail")]);
        assert!(programs("no JSON").is_err());
    }
}
