//! `chatmail manual`: man pages and shell completions, from the definitions of the commands. The package contains them.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::Context as _;
use clap::Command;
use clap_complete::{Shell, generate};

/// Shells, and the files with the completions below `share`.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/chatmail"),
    (Shell::Fish, "fish/vendor_completions.d/chatmail.fish"),
    (Shell::Zsh, "zsh/site-functions/_chatmail"),
];

/// Write man pages and shell completions.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Folder to write to, such as `share` of a package.
    #[arg(long, value_name = "DIRECTORY")]
    output: PathBuf,
}

pub(crate) fn run(cli: &Cli, command: &Command) -> anyhow::Result<crate::Answer> {
    for (shell, file) in COMPLETIONS {
        let mut text = Vec::new();
        generate(shell, &mut command.clone(), "chatmail", &mut text);
        write(&cli.output.join(file), &text)?;
    }
    let pages = cli.output.join("man/man1");
    fs::create_dir_all(&pages).with_context(|| format!("cannot create {}", pages.display()))?;
    clap_mangen::generate_to(command.clone(), &pages)
        .with_context(|| format!("cannot write to {}", pages.display()))?;
    Ok(String::new().into())
}

fn write(path: &Path, text: &[u8]) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder).with_context(|| format!("cannot create {}", folder.display()))?;
    }
    fs::write(path, text).with_context(|| format!("cannot write {}", path.display()))
}
