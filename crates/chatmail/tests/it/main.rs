//! The real binary, with settings and keys from files.
#![allow(clippy::unwrap_used, reason = "helpers of tests are tests")]

mod dns;
mod manual;
mod website;

use std::path::{Path, PathBuf};
use std::process::Command;

use chatmail_core::Settings;
use tempfile::TempDir;

/// The result of a command.
struct Outcome {
    success: bool,
    stdout: String,
    stderr: String,
}

/// A folder with a settings file in it.
struct Relay {
    dir: TempDir,
}

impl Relay {
    /// The sample relay, changed by `change`.
    fn new(change: impl FnOnce(&mut Settings)) -> Self {
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(sample, "sample".as_ref()).unwrap();
        settings.dkim.key_file = testdata("pkcs8.pem");
        change(&mut settings);
        let dir = tempfile::tempdir().unwrap();
        let text = serde_json::to_string(&settings).unwrap();
        std::fs::write(dir.path().join("settings.json"), text).unwrap();
        Self { dir }
    }

    fn chatmail(&self, arguments: &[&str]) -> Outcome {
        self.chatmail_with_path(&std::env::var("PATH").unwrap(), arguments)
    }

    fn chatmail_with_path(&self, path: &str, arguments: &[&str]) -> Outcome {
        let output = Command::new(env!("CARGO_BIN_EXE_chatmail"))
            .arg("--settings")
            .arg(self.dir.path().join("settings.json"))
            .args(arguments)
            .env("PATH", path)
            .output()
            .unwrap();
        Outcome {
            success: output.status.success(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

fn testdata(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata").join(name)
}
