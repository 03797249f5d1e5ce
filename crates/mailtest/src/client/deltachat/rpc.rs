//! JSON-RPC 2.0 with `deltachat-rpc-server`, one object per line over its standard input and output.

use std::collections::HashMap;
use std::net::IpAddr;
use std::path::Path;
use std::process::Stdio;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

/// Timeout of a call. The slowest calls configure an account, for which the client connects to the relay.
const CALL: Duration = Duration::from_secs(120);

/// The client's C library only reads /etc/resolv.conf, so this script bind-mounts $1 over that file.
const WITH_RESOLVER: &str = "mount --bind \"$1\" /etc/resolv.conf && shift && exec \"$@\"";

type Answer = Result<Value, String>;
type Waiting = Arc<Mutex<HashMap<u64, oneshot::Sender<Answer>>>>;

#[derive(Deserialize)]
struct Line {
    id: Option<u64>,
    result: Option<Value>,
    error: Option<Value>,
}

/// A running client program.
pub(super) struct Rpc {
    /// Killed when this value is dropped.
    _child: Child,
    stdin: tokio::sync::Mutex<ChildStdin>,
    waiting: Waiting,
    next: AtomicU64,
    reader: JoinHandle<()>,
}

impl Rpc {
    /// Starts the program with its accounts in `directory`; it uses `resolver` as its only name server, unless this
    /// is the unspecified address, and runs in the network namespace `network` if there is one.
    pub(super) async fn start(
        program: &Path,
        directory: &Path,
        resolver: IpAddr,
        network: Option<&Path>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(directory).with_context(|| format!("creating {}", directory.display()))?;
        let resolv_conf = directory.join("resolv.conf");
        std::fs::write(
            &resolv_conf,
            format!("nameserver {resolver}\noptions timeout:1 attempts:1\n"),
        )?;
        let log = std::fs::File::create(directory.join("stderr"))?;
        let mut command = match network {
            // The name servers of this computer, without root.
            None if resolver.is_unspecified() => Command::new(program),
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net={}", network.display())).arg("unshare");
                command
            }
            None => Command::new("unshare"),
        };
        if network.is_some() || !resolver.is_unspecified() {
            command
                .args([
                    "--mount",
                    "--propagation",
                    "private",
                    "sh",
                    "-c",
                    WITH_RESOLVER,
                    "sh",
                ])
                .arg(&resolv_conf)
                .arg(program);
        }
        let mut child = command
            .env("DC_ACCOUNTS_PATH", directory.join("accounts"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(log)
            // nsenter, unshare and sh replace themselves with the program, so this kills the program.
            .kill_on_drop(true)
            .spawn()
            .context("starting nsenter or unshare")?;
        let stdin = child.stdin.take().context("no standard input")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let waiting = Waiting::default();
        let reader = tokio::spawn(read(stdout, Arc::clone(&waiting)));
        let rpc = Self {
            _child: child,
            stdin: tokio::sync::Mutex::new(stdin),
            waiting,
            next: AtomicU64::new(1),
            reader,
        };
        let info: Result<Value, _> = rpc.call("get_system_info", json!([])).await;
        info.with_context(|| {
            let log = std::fs::read_to_string(directory.join("stderr")).unwrap_or_default();
            format!("starting {}: {}", program.display(), log.trim())
        })?;
        Ok(rpc)
    }

    /// Calls a method with positional parameters.
    pub(super) async fn call<T: DeserializeOwned>(&self, method: &str, params: Value) -> anyhow::Result<T> {
        let result = tokio::time::timeout(CALL, self.answer(method, params))
            .await
            .map_err(|_| anyhow!("no response within {CALL:?}"))
            .flatten();
        let value = result.with_context(|| format!("deltachat: {method}"))?;
        serde_json::from_value(value).with_context(|| format!("deltachat: unexpected result of {method}"))
    }

    /// Calls a method without a timeout: for waiting for events.
    pub(super) async fn answer(&self, method: &str, params: Value) -> anyhow::Result<Value> {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let (sender, receiver) = oneshot::channel();
        lock(&self.waiting).insert(id, sender);
        let mut line = json!({"jsonrpc": "2.0", "id": id, "method": method, "params": params}).to_string();
        line.push('\n');
        self.stdin
            .lock()
            .await
            .write_all(line.as_bytes())
            .await
            .context("the program has exited")?;
        receiver
            .await
            .context("the program has exited")?
            .map_err(|error| anyhow!(error))
    }
}

impl Drop for Rpc {
    fn drop(&mut self) {
        self.reader.abort();
    }
}

fn lock(waiting: &Waiting) -> std::sync::MutexGuard<'_, HashMap<u64, oneshot::Sender<Answer>>> {
    waiting.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn read(stdout: ChildStdout, waiting: Waiting) {
    let mut lines = BufReader::new(stdout).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(Line {
            id: Some(id),
            result,
            error,
        }) = serde_json::from_str(&line)
        else {
            continue;
        };
        let answer = match error {
            Some(error) => Err(error
                .get("message")
                .and_then(Value::as_str)
                .map_or_else(|| error.to_string(), str::to_owned)),
            None => Ok(result.unwrap_or(Value::Null)),
        };
        if let Some(sender) = lock(&waiting).remove(&id) {
            // The caller may have timed out.
            let _ = sender.send(answer);
        }
    }
    // Dropping the senders reports to every caller that the program has exited.
    lock(&waiting).clear();
}
