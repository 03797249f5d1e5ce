//! A mail store in a temporary folder, and what a program did to it.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

pub(crate) const DAY: u64 = 24 * 60 * 60;

pub(crate) struct Tree {
    root: tempfile::TempDir,
}

pub(crate) struct Ran {
    pub(crate) success: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Tree {
    pub(crate) fn new() -> Self {
        Self::with_quota(524_288_000)
    }

    pub(crate) fn with_quota(bytes: u64) -> Self {
        Self::with_limits(bytes, 50_000)
    }

    pub(crate) fn with_limits(bytes: u64, messages: u64) -> Self {
        let tree = Self {
            root: tempfile::tempdir().unwrap(),
        };
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        let mut settings: serde_json::Value = serde_json::from_str(sample).unwrap();
        settings["mailboxes"]["directory"] = tree.store().to_str().unwrap().into();
        settings["mailboxes"]["quota"] = bytes.into();
        settings["mailboxes"]["max_messages"] = messages.into();
        fs::write(tree.root().join("settings.json"), settings.to_string()).unwrap();
        fs::create_dir(tree.store()).unwrap();
        tree
    }

    pub(crate) fn root(&self) -> &Path {
        self.root.path()
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.root().join("mail")
    }

    /// An account that logged in so many days ago, with what Dovecot and our services keep in it.
    pub(crate) fn account(&self, name: &str, login_days: u64) -> PathBuf {
        let dir = self.store().join(name);
        for part in ["cur", "new", "tmp"] {
            fs::create_dir_all(dir.join(part)).unwrap();
        }
        for own in [
            "dovecot.index.log",
            "dovecot-uidlist",
            "subscriptions",
            "enforceE2EEincoming",
            "metadata.json",
            "maildirsize",
        ] {
            file(&dir.join(own), 10, 400 * DAY);
        }
        file(&dir.join("password"), 20, login_days * DAY);
        dir
    }

    pub(crate) fn command(&self, program: &str) -> Command {
        let program = match program {
            "chatmail-expire" => env!("CARGO_BIN_EXE_chatmail-expire"),
            "chatmail-quota-expire" => env!("CARGO_BIN_EXE_chatmail-quota-expire"),
            "chatmail-fsreport" => env!("CARGO_BIN_EXE_chatmail-fsreport"),
            other => panic!("no program {other}"),
        };
        let mut command = Command::new(program);
        command.arg("--settings").arg(self.root().join("settings.json"));
        command
    }

    pub(crate) fn run(&self, program: &str, args: &[impl AsRef<OsStr>]) -> Ran {
        self.finish(self.command(program).args(args).output().unwrap())
    }

    /// The output with the temporary folder and the duration taken out; lines of standard error sorted, because
    /// threads write them.
    pub(crate) fn finish(&self, output: Output) -> Ran {
        let root = self.root().to_str().unwrap();
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap().replace(root, "ROOT");
        let stdout = text(&output.stdout);
        let stdout = match stdout.rsplit_once(" in ") {
            Some((summary, seconds)) if seconds.ends_with(" seconds\n") => {
                let number = seconds.trim_end_matches(" seconds\n");
                assert!(number.parse::<f64>().is_ok() && number.split_once('.').unwrap().1.len() == 2);
                format!("{summary} in N.NN seconds\n")
            }
            _ => stdout,
        };
        let stderr = text(&output.stderr);
        let mut lines: Vec<_> = stderr.lines().collect();
        lines.sort_unstable();
        Ran {
            success: output.status.success(),
            stdout,
            stderr: lines.join("\n"),
        }
    }

    /// Every entry of the store by name.
    pub(crate) fn names(&self) -> Vec<String> {
        let mut names = Vec::new();
        walk(&self.store(), &mut |path, _| {
            let path = path.strip_prefix(self.store()).unwrap();
            names.push(path.display().to_string());
        });
        names
    }
}

/// A file of this size, last modified this many seconds ago.
pub(crate) fn file(path: &Path, bytes: u64, seconds_ago: u64) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    let file = File::create(path).unwrap();
    file.set_len(bytes).unwrap();
    file.set_modified(SystemTime::now() - Duration::from_secs(seconds_ago))
        .unwrap();
}

/// A message named as Dovecot names it.
pub(crate) fn message(dir: &Path, number: u64, bytes: u64, seconds_ago: u64) -> PathBuf {
    let delivered = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap()
        .as_secs()
        - seconds_ago;
    let path = dir.join(format!("{delivered}.M1P{number}.host,S={bytes},W={bytes}:2,S"));
    file(&path, bytes, seconds_ago);
    path
}

/// Everything about a tree that a program could change, but for access times.
pub(crate) fn fingerprint(dir: &Path) -> String {
    let mut out = String::new();
    walk(dir, &mut |path, metadata| {
        let content = if metadata.is_file() {
            fs::read(path).unwrap()
        } else if metadata.is_symlink() {
            fs::read_link(path).unwrap().as_os_str().as_bytes().to_vec()
        } else {
            Vec::new()
        };
        writeln!(
            out,
            "{path:?} {:o} {} {} {}.{} {}.{} {content:?}",
            metadata.mode(),
            metadata.ino(),
            metadata.nlink(),
            metadata.mtime(),
            metadata.mtime_nsec(),
            metadata.ctime(),
            metadata.ctime_nsec(),
        )
        .unwrap();
    });
    out
}

fn walk(dir: &Path, visit: &mut dyn FnMut(&Path, &fs::Metadata)) {
    let mut paths: Vec<_> = dir
        .read_dir()
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    for path in paths {
        let metadata = path.symlink_metadata().unwrap();
        visit(&path, &metadata);
        if metadata.is_dir() {
            walk(&path, visit);
        }
    }
}
