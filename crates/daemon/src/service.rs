//! A running service: its settings, its sockets, and what it reports to systemd.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use chatmail_core::{Endpoint, Settings};
use sd_notify::NotifyState;
use tokio::net::{TcpListener, UnixDatagram, UnixListener};
use tokio_util::either::Either;
use tokio_util::sync::CancellationToken;

use crate::listen::Inherited;

/// How long open connections may continue after SIGTERM. Shorter than systemd's own limit, so that a service always
/// exits by itself.
pub const DRAIN: Duration = Duration::from_secs(20);

/// A running service.
pub struct Service {
    /// The relay's settings.
    pub settings: Arc<Settings>,
    /// Cancelled when the service has to stop.
    pub shutdown: CancellationToken,
    pub(crate) inherited: Inherited,
}

impl Service {
    /// The TCP socket from systemd, or a new one on `address`.
    pub fn tcp_listener(&mut self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        self.inherited.tcp(address)
    }

    /// The socket from systemd, or a new one at `endpoint`.
    pub fn listener(&mut self, endpoint: &Endpoint) -> anyhow::Result<Either<TcpListener, UnixListener>> {
        self.inherited.endpoint(endpoint)
    }

    /// The Unix socket from systemd, or a new one that appears at `path` once it listens.
    pub fn unix_listener(&mut self, path: &Path) -> anyhow::Result<UnixListener> {
        self.inherited.unix(None, path)
    }

    /// The same for another Unix socket with a name (`FileDescriptorName=`).
    pub fn named_unix_listener(&mut self, name: &str, path: &Path) -> anyhow::Result<UnixListener> {
        self.inherited.unix(Some(name), path)
    }

    /// The same for datagrams.
    pub fn named_unix_datagram(&mut self, name: &str, path: &Path) -> anyhow::Result<UnixDatagram> {
        self.inherited.unix_datagram(name, path)
    }

    /// Notifies systemd that the sockets are open, and of the service's status.
    pub fn ready(&self, status: &str) {
        notify(&[NotifyState::Ready, NotifyState::Status(status)]);
    }

    /// Notifies systemd of the service's status.
    pub fn status(&self, status: &str) {
        notify(&[NotifyState::Status(status)]);
    }
}

/// Notifies systemd. An error is not fatal: the service also runs without systemd.
pub(crate) fn notify(state: &[NotifyState<'_>]) {
    if let Err(error) = sd_notify::notify(false, state) {
        tracing::warn!("cannot notify systemd: {error}");
    }
}
