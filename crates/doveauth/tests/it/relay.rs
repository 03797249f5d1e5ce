//! A mail store, settings for it, and services that run on it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use chatmail_core::account::{Account, MailStore};
use chatmail_core::{Address, Settings};
use nix::sys::signal::Signal;
use nix::unistd::Pid;

pub(crate) const DOMAIN: &str = "chat.example.org";

/// No test waits for longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) struct Relay {
    dir: tempfile::TempDir,
    pub(crate) settings: Settings,
}

impl Relay {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = include_str!("../../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(text, Path::new("sample")).unwrap();
        settings.mailboxes.directory = dir.path().join("mail");
        settings.registration.directory = dir.path().join("registration");
        fs::create_dir(&settings.registration.directory).unwrap();
        settings.registration.nocreate_files = ["nocreate", "nocreate-of-old"]
            .map(|name| dir.path().join(name))
            .into();
        settings.lastlogin.socket = dir.path().join("lastlogin.socket");
        settings.doveauth.socket = dir.path().join("doveauth.socket");
        settings.doveauth.sasl.socket = dir.path().join("sasl.socket");
        // The machine that runs the tests may be busy.
        settings.accounts.max_load_1m = 1e6;
        settings.accounts.min_memory_available = 0;
        settings.accounts.min_disk_free = 0;
        fs::create_dir(&settings.mailboxes.directory).unwrap();
        Self { dir, settings }
    }

    pub(crate) fn account(&self, address: &str) -> Account {
        MailStore::new(&self.settings.mailboxes.directory).account(&Address::parse(address).unwrap())
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        let path = self.dir.path().join("settings.json");
        fs::write(&path, serde_json::to_string(&self.settings).unwrap()).unwrap();
        path
    }

    /// Starts doveauth on a socket that stays open, as systemd does.
    pub(crate) fn doveauth(&self) -> Doveauth {
        // Another process of the same relay may run, as during a restart.
        let socket = tempfile::Builder::new()
            .make_in(self.dir.path(), |path| UnixListener::bind(path))
            .unwrap();
        let (listener, path) = socket.into_parts();
        let (process, lines) = spawn(self, &listener);
        Doveauth {
            path,
            listener,
            process: Mutex::new(process),
            lines: Mutex::new(lines),
        }
    }
}

/// Ends with the test.
pub(crate) struct Process(pub(crate) Child);

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

pub(crate) struct Doveauth {
    path: tempfile::TempPath,
    listener: UnixListener,
    process: Mutex<Process>,
    lines: Mutex<mpsc::Receiver<String>>,
}

impl Doveauth {
    /// Sends SIGKILL and starts it again. The socket stays open meanwhile: the new process serves new connections.
    pub(crate) fn kill_and_restart(&self, relay: &Relay) {
        let mut process = self.process.lock().unwrap();
        let id = Pid::from_raw(process.0.id().try_into().unwrap());
        nix::sys::signal::kill(id, Signal::SIGKILL).unwrap();
        process.0.wait().unwrap();
        let (restarted, lines) = spawn(relay, &self.listener);
        *process = restarted;
        *self.lines.lock().unwrap() = lines;
    }

    pub(crate) fn try_request(&self, head: &str, body: &[u8]) -> std::io::Result<(u16, String)> {
        let mut stream = UnixStream::connect(&self.path)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        // The target is absolute, as Dovecot writes it for a "proxy" on a Unix socket.
        let (method, path) = head.split_once(' ').unwrap();
        write!(
            stream,
            "{method} http://doveauth{path} HTTP/1.1\r\nHost: doveauth\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        stream.write_all(body)?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((head[9..12].parse().unwrap(), body.to_owned()))
    }

    pub(crate) fn try_login(&self, user: &str, password: impl AsRef<[u8]>) -> std::io::Result<String> {
        let body = [user.as_bytes(), b"\n", password.as_ref()].concat();
        let (code, body) = self.try_request("POST /auth", &body)?;
        assert_eq!(code, 200, "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        // The Lua script compares the text.
        let status = answer["status"].as_str().unwrap().to_owned();
        assert_eq!(body, format!(r#"{{"status":"{status}"}}"#));
        Ok(status)
    }

    pub(crate) fn login(&self, user: &str, password: impl AsRef<[u8]>) -> String {
        self.try_login(user, password).unwrap()
    }

    /// Waits for a log line that ends like this.
    pub(crate) fn wait_for_line(&self, wanted: &str) -> String {
        let lines = self.lines.lock().unwrap();
        loop {
            let line = lines
                .recv_timeout(PATIENCE)
                .unwrap_or_else(|error| panic!("no line {wanted:?}: {error}"));
            if line.ends_with(wanted) {
                return line;
            }
        }
    }

    /// The log lines so far.
    pub(crate) fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap().try_iter().collect()
    }
}

fn spawn(relay: &Relay, listener: &UnixListener) -> (Process, mpsc::Receiver<String>) {
    // Dup loses close-on-exec only in the child's own descriptor 3, where systemd puts the first socket.
    let socket = OwnedFd::from(listener.try_clone().unwrap());
    let mut child = Command::new("/bin/sh")
        .args([
            "-c",
            r#"LISTEN_FDS=1 LISTEN_PID=$$ exec "$0" --settings "$1" 3<&0 </dev/null"#,
        ])
        .arg(env!("CARGO_BIN_EXE_doveauth"))
        .arg(relay.settings_file())
        .stdin(Stdio::from(socket))
        .stderr(Stdio::piped())
        .env_remove("JOURNAL_STREAM")
        .env_remove("RUST_LOG")
        .env("NO_COLOR", "1")
        .spawn()
        .unwrap();
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let (sender, lines) = mpsc::channel();
    std::thread::spawn(move || {
        for line in stderr.lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                break;
            }
        }
    });
    (Process(child), lines)
}
