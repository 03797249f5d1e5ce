//! The service, its settings and its files.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use chatmail_core::Settings;
use daemon::socketmap;
use dovecot_dict::Operation;
use dovecot_dict::codec::Command;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tokio::process::Child;
use tokio::time::{sleep, timeout};

/// No test waits for longer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(120);

pub(crate) const USER: &str = "abcdefghi@chat.example.org";

const SAMPLE: &str = include_str!("../../../chatmail-core/testdata/settings.json");

pub(crate) struct Relay {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) settings: Settings,
}

impl Relay {
    pub(crate) fn new(notification_url: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let mut settings = Settings::parse(SAMPLE, Path::new("sample")).unwrap();
        settings.mailboxes.directory = dir.path().join("mail");
        settings.metadata.socket = dir.path().join("metadata.socket");
        settings.metadata.delivered_socket = dir.path().join("delivered.socket");
        settings.push.queue_dir = dir.path().join("pending_notifications");
        settings.push.notification_url = notification_url.to_owned();
        let secret = dir.path().join("turn-secret");
        fs::write(&secret, "not the constant that everybody knows\n").unwrap();
        settings.turn.as_mut().unwrap().secret_file = secret;
        fs::create_dir_all(settings.mailboxes.directory.join(USER)).unwrap();
        Self { dir, settings }
    }

    /// Starts the service; `authority` is a file with the certificate that it trusts.
    pub(crate) async fn start(&self, authority: &Path) -> Service {
        let settings = self.dir.path().join("settings.json");
        fs::write(&settings, serde_json::to_string(&self.settings).unwrap()).unwrap();
        let child = tokio::process::Command::new(env!("CARGO_BIN_EXE_chatmail-metadata"))
            .arg("--settings")
            .arg(settings)
            .env("SSL_CERT_FILE", authority)
            .env_remove("JOURNAL_STREAM")
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let service = Service {
            child,
            socket: self.settings.metadata.socket.clone(),
            delivered: self.settings.metadata.delivered_socket.clone(),
        };
        drop(service.connect().await);
        service
    }

    pub(crate) fn pending(&self) -> Vec<PathBuf> {
        fs::read_dir(&self.settings.push.queue_dir)
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .collect()
    }

    pub(crate) async fn until_nothing_is_pending(&self) {
        let empty = async {
            while !self.pending().is_empty() {
                sleep(Duration::from_millis(10)).await;
            }
        };
        timeout(PATIENCE, empty).await.unwrap();
    }
}

pub(crate) struct Service {
    child: Child,
    socket: PathBuf,
    delivered: PathBuf,
}

impl Service {
    /// The socket appears when the service listens.
    pub(crate) async fn connect(&self) -> Dovecot {
        let connected = async {
            loop {
                match UnixStream::connect(&self.socket).await {
                    Ok(stream) => return stream,
                    Err(_) => sleep(Duration::from_millis(10)).await,
                }
            }
        };
        let stream = timeout(PATIENCE, connected).await.unwrap();
        let mut dovecot = Dovecot {
            stream: BufReader::new(stream),
            delivered: socketmap::Client::new(self.delivered.clone()),
        };
        let hello = Command::Hello {
            major: 4,
            minor: 0,
            dict: "metadata".to_owned(),
        };
        dovecot.send(&[hello]).await;
        dovecot
    }

    fn signal(&self, signal: Signal) {
        let pid = Pid::from_raw(self.child.id().unwrap().try_into().unwrap());
        kill(pid, signal).unwrap();
    }

    /// Kills it as the kernel would when memory runs out.
    pub(crate) async fn kill(mut self) {
        self.signal(Signal::SIGKILL);
        self.child.wait().await.unwrap();
    }

    /// Asks it to end; returns whether it did so in order, and what it logged.
    pub(crate) async fn terminate(mut self) -> (bool, String) {
        self.signal(Signal::SIGTERM);
        let status = timeout(PATIENCE, self.child.wait()).await.unwrap().unwrap();
        let mut log = String::new();
        let mut stderr = self.child.stderr.take().unwrap();
        stderr.read_to_string(&mut log).await.unwrap();
        (status.success(), log)
    }
}

/// The other end of the dict protocol, and the sender of reports.
pub(crate) struct Dovecot {
    stream: BufReader<UnixStream>,
    delivered: socketmap::Client,
}

impl Dovecot {
    pub(crate) async fn send(&mut self, commands: &[Command]) {
        let mut bytes = Vec::new();
        for command in commands {
            command.encode(&mut bytes);
        }
        self.stream.write_all(&bytes).await.unwrap();
    }

    /// The next line without its end; none when the service has closed the connection.
    pub(crate) async fn reply(&mut self) -> Option<String> {
        let mut line = String::new();
        let read = timeout(PATIENCE, self.stream.read_line(&mut line)).await.unwrap();
        if read.unwrap() == 0 {
            return None;
        }
        assert_eq!(line.pop(), Some('\n'));
        Some(line)
    }

    pub(crate) async fn lookup(&mut self, key: &str) -> String {
        let (key, user) = (key.to_owned(), USER.to_owned());
        self.send(&[Command::Lookup { key, user }]).await;
        self.reply().await.unwrap()
    }

    pub(crate) async fn change(&mut self, operation: Operation) -> String {
        let id = 1;
        let commands = [
            Command::Begin {
                id,
                user: USER.to_owned(),
                expire_secs: 0,
            },
            Command::Operation { id, operation },
            Command::Commit { id, detached: false },
        ];
        self.send(&commands).await;
        self.reply().await.unwrap()
    }

    pub(crate) async fn set(&mut self, entry: &str, value: &str) -> String {
        let key = format!("priv/43f5f508a7ea0366dff30200c15250e3/{entry}");
        let value = value.as_bytes().to_owned();
        self.change(Operation::Set { key, value }).await
    }

    pub(crate) async fn add_token(&mut self, token: &str) {
        assert_eq!(self.set("devicetoken", token).await, "O1");
    }

    /// What Postfix does when a message was delivered.
    pub(crate) async fn message(&self) {
        let report = format!("2.0.0 250 2.0.0 <{USER}> xKoE/eB2CGs Saved");
        self.delivered.tell("delivered", &[report]).await.unwrap();
    }
}
