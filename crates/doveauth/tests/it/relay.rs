//! A mail store, settings for it, and services that run on it.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
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
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

pub(crate) struct Relay {
    dir: tempfile::TempDir,
    pub(crate) settings: Settings,
}

impl Relay {
    pub(crate) fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let text = include_str!("../../../chatmail-core/testdata/settings.json");
        let mut settings = Settings::parse(text, Path::new("sample")).unwrap();
        settings.mailboxes_dir = dir.path().join("mail");
        settings.accounts.nocreate_files = ["nocreate", "nocreate-of-old"]
            .map(|name| dir.path().join(name))
            .into();
        settings.lastlogin.socket = dir.path().join("lastlogin.socket");
        // The machine that runs the tests may be busy.
        settings.accounts.max_load_1m = 1e6;
        settings.accounts.min_memory_available = 0;
        settings.accounts.min_disk_free = 0;
        fs::create_dir(&settings.mailboxes_dir).unwrap();
        Self { dir, settings }
    }

    pub(crate) fn account(&self, address: &str) -> Account {
        MailStore::new(&self.settings.mailboxes_dir).account(&Address::parse(address).unwrap())
    }

    pub(crate) fn settings_file(&self) -> PathBuf {
        let path = self.dir.path().join("settings.json");
        fs::write(&path, serde_json::to_string(&self.settings).unwrap()).unwrap();
        path
    }

    /// Starts doveauth on a socket that stays open, as systemd does.
    pub(crate) fn doveauth(&self) -> Doveauth {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        Doveauth::start(self, listener)
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
    pub(crate) address: SocketAddr,
    listener: TcpListener,
    process: Process,
    lines: Mutex<mpsc::Receiver<String>>,
}

impl Doveauth {
    fn start(relay: &Relay, listener: TcpListener) -> Self {
        let (process, lines) = spawn(relay, &listener);
        Self {
            address: listener.local_addr().unwrap(),
            listener,
            process,
            lines,
        }
    }

    /// Sends SIGKILL; the socket stays open.
    pub(crate) fn kill(&self) {
        let process = Pid::from_raw(self.process.0.id().try_into().unwrap());
        nix::sys::signal::kill(process, Signal::SIGKILL).unwrap();
    }

    /// Starts it again.
    pub(crate) fn restart(&mut self, relay: &Relay) {
        self.process.0.wait().unwrap();
        (self.process, self.lines) = spawn(relay, &self.listener);
    }

    pub(crate) fn try_request(&self, head: &str, body: &str) -> std::io::Result<(u16, String)> {
        let mut stream = TcpStream::connect(self.address)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "{head} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )?;
        let mut text = String::new();
        stream.read_to_string(&mut text)?;
        let (head, body) = text
            .split_once("\r\n\r\n")
            .ok_or(std::io::ErrorKind::UnexpectedEof)?;
        Ok((head[9..12].parse().unwrap(), body.to_owned()))
    }

    pub(crate) fn try_login(&self, user: &str, password: &str) -> std::io::Result<String> {
        let body = serde_json::json!({ "user": user, "password": password }).to_string();
        let (code, body) = self.try_request("POST /auth", &body)?;
        assert_eq!(code, 200, "{body}");
        let answer: serde_json::Value = serde_json::from_str(&body).unwrap();
        // The Lua script compares the text.
        let status = answer["status"].as_str().unwrap().to_owned();
        assert_eq!(body, format!(r#"{{"status":"{status}"}}"#));
        Ok(status)
    }

    pub(crate) fn login(&self, user: &str, password: &str) -> String {
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

fn spawn(relay: &Relay, listener: &TcpListener) -> (Process, Mutex<mpsc::Receiver<String>>) {
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
    (Process(child), Mutex::new(lines))
}
