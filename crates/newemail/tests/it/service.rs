//! A running newemail, ended when dropped.

use std::io::{Read as _, Write as _};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use chatmail_core::Settings;
use tempfile::TempDir;

/// Longer than anything here takes on a busy machine.
const DEADLINE: Duration = Duration::from_secs(120);

pub(crate) struct Service {
    pub(crate) settings: Settings,
    child: Child,
    socket: PathBuf,
    _dir: TempDir,
}

pub(crate) struct Answer {
    pub(crate) status: u16,
    head: String,
    pub(crate) body: String,
}

impl Service {
    /// Starts the binary with the sample settings, changed by `change`, and waits for its READY.
    pub(crate) fn start(change: impl FnOnce(&mut Settings)) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(sample, "sample".as_ref()).unwrap();
        settings.registration.nocreate_files = vec![dir.path().join("nocreate")];
        settings.registration.directory = dir.path().join("registration");
        std::fs::create_dir(&settings.registration.directory).unwrap();
        change(&mut settings);
        let socket = dir.path().join("newemail.socket");
        settings.newemail.socket = socket.clone();
        let path = dir.path().join("settings.json");
        std::fs::write(&path, serde_json::to_string(&settings).unwrap()).unwrap();

        let notify = dir.path().join("notify");
        let manager = UnixDatagram::bind(&notify).unwrap();
        manager.set_read_timeout(Some(DEADLINE)).unwrap();
        let child = Command::new(env!("CARGO_BIN_EXE_newemail"))
            .arg("--settings")
            .arg(&path)
            .env("NOTIFY_SOCKET", &notify)
            .env("RUST_LOG", "trace")
            .env_remove("JOURNAL_STREAM")
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut message = [0; 1024];
        let length = manager.recv(&mut message).unwrap();
        assert!(message[..length].starts_with(b"READY=1"));
        Self {
            settings,
            child,
            socket,
            _dir: dir,
        }
    }

    pub(crate) fn ask(&self, method: &str, path: &str) -> Answer {
        let mut stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let host = &self.settings.domain;
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n"
        )
        .unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        Answer {
            status: head.split(' ').nth(1).unwrap().parse().unwrap(),
            head: head.to_owned(),
            body: body.to_owned(),
        }
    }

    /// Ends the service as systemd does, and returns what it logged.
    pub(crate) fn end(mut self) -> String {
        self.terminate();
        let mut log = String::new();
        self.child
            .stderr
            .take()
            .unwrap()
            .read_to_string(&mut log)
            .unwrap();
        assert!(self.child.wait().unwrap().success(), "{log}");
        log
    }

    fn terminate(&self) {
        let pid = nix::unistd::Pid::from_raw(self.child.id().try_into().unwrap());
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // It has ended already after `end`.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.head.lines().find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }

    pub(crate) fn json(&self) -> serde_json::Value {
        serde_json::from_str(&self.body).unwrap()
    }
}
