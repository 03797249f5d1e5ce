//! Connections from this host, or from another one over SSH.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::process::Stdio;
use std::task::{self, Poll};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, Join, ReadBuf};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// Longest wait for a connection, and again for each answer on it.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// Longest wait for a command on another machine, whose login may take a while.
const REMOTE_PATIENCE: Duration = Duration::from_secs(20);

/// Maximum output of a command on another machine.
const MAX_OUTPUT: u64 = 64 * 1024;

/// A connection to a port.
pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// Where connections start.
#[derive(Debug, Clone)]
pub(crate) enum Dial {
    /// At this host.
    Here,
    /// At another machine, which connects for `ssh -W`: it needs no program of ours.
    Over(Ssh),
}

/// SSH to another machine. All commands share the connection behind the control socket.
#[derive(Debug, Clone)]
pub(crate) struct Ssh {
    /// Destination, as for ssh(1).
    pub(crate) host: String,
    /// Socket of the shared connection.
    pub(crate) control: PathBuf,
}

impl Dial {
    /// Opens a TCP connection. Over SSH, a failure shows only when the stream ends.
    pub(crate) async fn connect(&self, address: SocketAddr) -> anyhow::Result<Box<dyn Stream>> {
        match self {
            Self::Here => {
                let stream = timeout(PATIENCE, TcpStream::connect(address))
                    .await
                    .with_context(|| format!("timed out after {} s", PATIENCE.as_secs()))?
                    .context("cannot connect")?;
                Ok(Box::new(stream))
            }
            Self::Over(ssh) => Ok(Box::new(ssh.forward(address)?)),
        }
    }
}

impl Ssh {
    fn command(&self) -> Command {
        let mut command = Command::new("ssh");
        command
            .args([
                "-o",
                "BatchMode=yes",
                "-o",
                "ConnectTimeout=10",
                "-o",
                "LogLevel=ERROR",
            ])
            .args(["-o", "ControlMaster=auto", "-o", "ControlPersist=20"])
            .arg("-o")
            .arg(format!("ControlPath={}", self.control.display()))
            .kill_on_drop(true);
        command
    }

    fn forward(&self, address: SocketAddr) -> anyhow::Result<Forwarded> {
        let mut child = self
            .command()
            .arg("-W")
            .arg(address.to_string())
            .arg(&self.host)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("cannot run ssh")?;
        let (stdin, stdout) = child
            .stdin
            .take()
            .zip(child.stdout.take())
            .context("ssh has no pipes")?;
        Ok(Forwarded {
            pipes: tokio::io::join(stdout, stdin),
            _child: child,
        })
    }

    /// Runs a script of bash on the other machine; returns its output.
    pub(crate) async fn bash(&self, script: &str) -> anyhow::Result<String> {
        let mut child = self
            .command()
            .args([&self.host, "bash", "-s"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .context("cannot run ssh")?;
        let (mut out, mut said) = (Vec::new(), Vec::new());
        let work = async {
            if let Some(mut stdin) = child.stdin.take() {
                // A machine that refuses the login closes the pipe; its message says more.
                let _ = stdin.write_all(script.as_bytes()).await;
            }
            if let Some(stdout) = child.stdout.take() {
                stdout.take(MAX_OUTPUT).read_to_end(&mut out).await?;
            }
            if let Some(stderr) = child.stderr.take() {
                stderr.take(MAX_OUTPUT).read_to_end(&mut said).await?;
            }
            child.wait().await
        };
        let status = timeout(REMOTE_PATIENCE, work)
            .await
            .with_context(|| {
                format!(
                    "{} does not answer within {} s",
                    self.host,
                    REMOTE_PATIENCE.as_secs()
                )
            })?
            .with_context(|| format!("cannot talk to {}", self.host))?;
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        ensure!(
            status.success(),
            "cannot run bash on {}: {}",
            self.host,
            if said.is_empty() { status.to_string() } else { said }
        );
        Ok(String::from_utf8_lossy(&out).into_owned())
    }
}

/// A connection through the pipes of `ssh -W`.
struct Forwarded {
    pipes: Join<ChildStdout, ChildStdin>,
    /// Killed when the connection is dropped.
    _child: Child,
}

impl AsyncRead for Forwarded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipes).poll_read(context, buffer)
    }
}

impl AsyncWrite for Forwarded {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut task::Context<'_>,
        bytes: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.pipes).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipes).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut task::Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.pipes).poll_shutdown(context)
    }
}
