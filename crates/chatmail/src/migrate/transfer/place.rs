//! A host or a folder with the files of a relay.

use std::fmt;
use std::process::{Command, Output, Stdio};
use std::str::FromStr;

use anyhow::{Context as _, bail, ensure};

/// Where the files of a relay are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Place {
    /// Below a folder of this host; empty for `/`.
    Folder(String),
    /// On another host, as `user@host`.
    Host(String),
}

/// The text is neither a host nor a folder.
#[derive(Debug, thiserror::Error)]
#[error("expected root@HOST, or an absolute path")]
pub(super) struct InvalidPlace;

impl FromStr for Place {
    type Err = InvalidPlace;

    fn from_str(text: &str) -> Result<Self, InvalidPlace> {
        if text.starts_with('/') {
            return Ok(Self::Folder(text.trim_end_matches('/').to_owned()));
        }
        // What ssh or rsync could take for an option, a path, a port or a module.
        let plain = |part: &str| {
            !part.is_empty()
                && !part.starts_with('-')
                && part
                    .bytes()
                    .all(|byte| byte.is_ascii_alphanumeric() || b".-_".contains(&byte))
        };
        match text.split_once('@') {
            Some((user, host)) if plain(user) && plain(host) => Ok(Self::Host(text.to_owned())),
            _ => Err(InvalidPlace),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Folder(folder) if folder.is_empty() => f.write_str("/"),
            Self::Folder(name) | Self::Host(name) => f.write_str(name),
        }
    }
}

impl Place {
    /// This host.
    pub(super) fn here() -> Self {
        Self::Folder(String::new())
    }

    /// A path there, as rsync names it.
    pub(super) fn path(&self, path: &str) -> String {
        match self {
            Self::Folder(folder) => format!("{folder}{path}"),
            Self::Host(host) => format!("{host}:{path}"),
        }
    }

    /// A path in commands that run there.
    pub(super) fn local(&self, path: &str) -> String {
        match self {
            Self::Folder(folder) => format!("{folder}{path}"),
            Self::Host(_) => path.to_owned(),
        }
    }

    /// A command that runs there. On another host, a shell reads its words, so they are quoted.
    pub(super) fn command(&self, words: &[&str]) -> Command {
        let mut command = match (self, words) {
            (Self::Folder(_), [program, arguments @ ..]) => {
                let mut command = Command::new(program);
                command.args(arguments);
                command
            }
            (Self::Folder(_), []) => Command::new("true"),
            (Self::Host(host), words) => {
                let mut command = Command::new("ssh");
                command.arg(host).arg("--");
                for word in words {
                    command.arg(format!("'{}'", word.replace('\'', r"'\''")));
                }
                command
            }
        };
        command.stdin(Stdio::null());
        command
    }

    fn output(&self, words: &[&str]) -> anyhow::Result<Output> {
        let output = self
            .command(words)
            .output()
            .with_context(|| format!("cannot run {} for {self}", words.first().unwrap_or(&"")))?;
        // ssh's own errors.
        if matches!(self, Self::Host(_)) && output.status.code() == Some(255) {
            bail!(
                "cannot connect to {self}: {}",
                String::from_utf8_lossy(&output.stderr).trim_end()
            );
        }
        Ok(output)
    }

    /// Whether a file exists there that is not empty.
    pub(super) fn has_file(&self, path: &str) -> anyhow::Result<bool> {
        Ok(self.output(&["test", "-s", &self.local(path)])?.status.success())
    }

    /// Whether a folder exists there.
    pub(super) fn has_folder(&self, path: &str) -> anyhow::Result<bool> {
        Ok(self.output(&["test", "-d", &self.local(path)])?.status.success())
    }

    /// Where a path leads there; none if it does not exist.
    pub(super) fn resolved(&self, path: &str) -> anyhow::Result<Option<String>> {
        let found = self.output(&["readlink", "-e", "--", &self.local(path)])?;
        let target = String::from_utf8_lossy(&found.stdout).trim_end().to_owned();
        Ok((found.status.success() && !target.is_empty()).then_some(target))
    }

    /// Files with this name in the folders of a folder there, as paths below it; none if it does not exist.
    pub(super) fn files_below(&self, folder: &str, name: &str) -> anyhow::Result<Vec<String>> {
        let depth = [
            "-mindepth",
            "2",
            "-maxdepth",
            "2",
            "-name",
            name,
            "-printf",
            r"%P\n",
        ];
        let folder = self.local(folder);
        let found = self.output(&[&["find", folder.as_str()][..], &depth].concat())?;
        Ok(String::from_utf8_lossy(&found.stdout)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Fails if one of these units runs there. Nothing runs in a folder.
    pub(super) fn refuse_running(&self, units: &[&str]) -> anyhow::Result<()> {
        if matches!(self, Self::Folder(_)) {
            return Ok(());
        }
        for unit in units {
            let running = self.output(&["systemctl", "is-active", "--quiet", unit])?;
            ensure!(
                !running.status.success(),
                "{unit} still runs on {self}; run `ssh {self} systemctl stop {unit}` first"
            );
        }
        Ok(())
    }

    pub(super) fn make_folders(&self, paths: &[&str]) -> anyhow::Result<()> {
        self.make(&["mkdir", "-p"], paths)
    }

    /// Only root can enter it.
    pub(super) fn make_private_folder(&self, path: &str) -> anyhow::Result<()> {
        self.make(&["install", "-d", "-m", "0700"], &[path])
    }

    fn make(&self, command: &[&str], paths: &[&str]) -> anyhow::Result<()> {
        for path in paths {
            let made = self.output(&[command, &[&self.local(path)]].concat())?;
            ensure!(
                made.status.success(),
                "cannot create {path} on {self}: {}",
                String::from_utf8_lossy(&made.stderr).trim_end()
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_and_folders_are_told_apart() {
        let parse = |text: &str| text.parse::<Place>().ok();
        assert_eq!(parse("/"), Some(Place::here()));
        assert_eq!(parse("/mnt/old/"), Some(Place::Folder("/mnt/old".to_owned())));
        let host = parse("root@192.0.2.1").unwrap();
        assert_eq!(host.path("/etc/x"), "root@192.0.2.1:/etc/x");
        for bad in [
            "",
            "old",
            "mnt/old",
            "root@",
            "@old",
            "root@-oProxyCommand=x",
            "-x@old",
            "root@old:22",
            "root@a b",
            "root@$(x)",
            "a@b@c",
            "root@old/x",
            "::x",
        ] {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }

    #[test]
    fn remote_words_are_quoted() {
        let host: Place = "root@old".parse().unwrap();
        let command = host.command(&["test", "-s", "/it's; x"]);
        let words: Vec<_> = command.get_args().map(|word| word.to_str().unwrap()).collect();
        assert_eq!(words, ["root@old", "--", "'test'", "'-s'", r"'/it'\''s; x'"]);
    }
}
