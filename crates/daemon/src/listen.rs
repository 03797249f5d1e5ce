//! Listening sockets, from systemd or bound by the service.

use std::io;
use std::net::SocketAddr;
use std::os::unix::net::{UnixDatagram as StdUnixDatagram, UnixListener as StdUnixListener};
use std::path::Path;

use anyhow::Context as _;
use chatmail_core::Endpoint;
use listenfd::ListenFd;
use tokio::net::{TcpListener, TcpStream, UnixDatagram, UnixListener, UnixStream};
use tokio_util::either::Either;

/// A socket from which [`crate::serve`] accepts connections.
pub trait Listener {
    /// A connection.
    type Stream;

    /// Waits for the next connection.
    fn accept(&self) -> impl Future<Output = io::Result<Self::Stream>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;

    async fn accept(&self) -> io::Result<TcpStream> {
        let (stream, _) = Self::accept(self).await?;
        // Replies are complete lines; waiting for more data would only delay them.
        stream.set_nodelay(true)?;
        Ok(stream)
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;

    async fn accept(&self) -> io::Result<UnixStream> {
        Ok(Self::accept(self).await?.0)
    }
}

/// A stream of an [`Endpoint`].
pub type Stream = Either<TcpStream, UnixStream>;

impl Listener for Either<TcpListener, UnixListener> {
    type Stream = Stream;

    async fn accept(&self) -> io::Result<Stream> {
        match self {
            Self::Left(listener) => Listener::accept(listener).await.map(Either::Left),
            Self::Right(listener) => Listener::accept(listener).await.map(Either::Right),
        }
    }
}

/// Connects to an endpoint.
pub async fn connect(endpoint: &Endpoint) -> io::Result<Stream> {
    match endpoint {
        Endpoint::Tcp(address) => {
            let stream = TcpStream::connect(address).await?;
            // The last piece of a message must not wait for the acknowledgement of the previous one.
            stream.set_nodelay(true)?;
            Ok(Either::Left(stream))
        }
        Endpoint::Unix(path) => Ok(Either::Right(UnixStream::connect(path).await?)),
    }
}

/// Name of the socket for metrics (`FileDescriptorName=`).
const METRICS: &str = "metrics";
/// Suffix of the default names of sockets, which are those of their units. These are the service's main sockets.
const UNIT: &str = ".socket";

/// Sockets from systemd that are not in use yet.
pub(crate) struct Inherited {
    sockets: ListenFd,
    /// In the order of the sockets.
    names: Vec<String>,
}

impl Inherited {
    pub(crate) fn from_env() -> Self {
        // Read first: taking the sockets removes the variables.
        let names = std::env::var("LISTEN_FDNAMES").unwrap_or_default();
        Self {
            names: names.split(':').map(str::to_owned).collect(),
            sockets: ListenFd::from_env(),
        }
    }

    /// No sockets.
    pub(crate) fn none() -> Self {
        Self {
            sockets: ListenFd::empty(),
            names: Vec::new(),
        }
    }

    /// Positions of the sockets with this name, or of the service's main sockets.
    fn places(&self, name: Option<&str>) -> Vec<usize> {
        let wanted = |place: &usize| {
            let found = self.names.get(*place).map(String::as_str).unwrap_or_default();
            match name {
                Some(name) => found == name,
                // Sockets that are not passed by systemd have no names.
                None => found.ends_with(UNIT) || matches!(found, "" | "unknown"),
            }
        };
        (0..self.sockets.len()).filter(wanted).collect()
    }

    /// The service's main socket.
    pub(crate) fn tcp(&mut self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        self.tcp_named(None, address)
    }

    /// The socket for metrics.
    pub(crate) fn metrics(&mut self, address: SocketAddr) -> anyhow::Result<TcpListener> {
        self.tcp_named(Some(METRICS), address)
    }

    fn tcp_named(&mut self, name: Option<&str>, address: SocketAddr) -> anyhow::Result<TcpListener> {
        let mut places = self.places(name).into_iter();
        let inherited = places.find_map(|place| self.sockets.take_tcp_listener(place).ok().flatten());
        let listener = match inherited {
            Some(listener) => listener,
            None => {
                std::net::TcpListener::bind(address).with_context(|| format!("cannot listen on {address}"))?
            }
        };
        listener
            .set_nonblocking(true)
            .context("cannot make the socket non-blocking")?;
        TcpListener::from_std(listener).context("cannot register the socket")
    }

    /// The service's main socket, of the kind in the settings.
    pub(crate) fn endpoint(
        &mut self,
        endpoint: &Endpoint,
    ) -> anyhow::Result<Either<TcpListener, UnixListener>> {
        Ok(match endpoint {
            Endpoint::Tcp(address) => Either::Left(self.tcp(*address)?),
            Endpoint::Unix(path) => Either::Right(self.unix(None, path)?),
        })
    }

    pub(crate) fn unix_datagram(&mut self, name: &str, path: &Path) -> anyhow::Result<UnixDatagram> {
        let mut places = self.places(Some(name)).into_iter();
        let inherited = places.find_map(|place| self.sockets.take_unix_datagram(place).ok().flatten());
        let socket = match inherited {
            Some(socket) => socket,
            None => StdUnixDatagram::bind(path)
                .with_context(|| format!("cannot receive at {}", path.display()))?,
        };
        socket
            .set_nonblocking(true)
            .context("cannot make the socket non-blocking")?;
        UnixDatagram::from_std(socket).context("cannot register the socket")
    }

    pub(crate) fn unix(&mut self, name: Option<&str>, path: &Path) -> anyhow::Result<UnixListener> {
        let mut places = self.places(name).into_iter();
        let inherited = places.find_map(|place| self.sockets.take_unix_listener(place).ok().flatten());
        let listener = match inherited {
            Some(listener) => listener,
            None => bind_unix(path).with_context(|| format!("cannot listen on {}", path.display()))?,
        };
        listener
            .set_nonblocking(true)
            .context("cannot make the socket non-blocking")?;
        UnixListener::from_std(listener).context("cannot register the socket")
    }
}

/// Binds to a temporary path and renames the socket: once it is visible, clients can connect to it, and the socket of a
/// killed process is replaced.
fn bind_unix(path: &Path) -> io::Result<StdUnixListener> {
    let mut fresh = path.as_os_str().to_owned();
    fresh.push(format!(".{}", std::process::id()));
    let listener = StdUnixListener::bind(&fresh)?;
    if let Err(error) = std::fs::rename(&fresh, path) {
        let _ = std::fs::remove_file(&fresh);
        return Err(error);
    }
    Ok(listener)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stale_socket_is_replaced_and_nothing_stays_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.socket");
        drop(bind_unix(&path).unwrap());
        let _listener = bind_unix(&path).unwrap();
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
