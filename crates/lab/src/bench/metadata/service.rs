//! The real service with its own files, and a notification server that accepts everything at once.

use std::convert::Infallible;
use std::ffi::OsStr;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use http_body_util::{BodyExt as _, Empty};
use hyper::Response;
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{TcpListener, TcpStream, UnixStream};
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::bench::program::Program;

/// How long the service may take to start, or to send the next notification.
const PATIENCE: Duration = Duration::from_secs(60);

/// How often to check a condition that no event announces.
const POLL: Duration = Duration::from_millis(10);

/// Answers every request with status 200. It uses HTTP without TLS, because only the service is to be measured.
pub(super) struct Server {
    pub(super) address: SocketAddr,
    requests: Arc<AtomicUsize>,
    _stop: DropGuard,
}

impl Server {
    pub(super) async fn start() -> anyhow::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let requests = Arc::new(AtomicUsize::new(0));
        let stop = CancellationToken::new();
        let accepting = accept(listener, Arc::clone(&requests), stop.clone());
        tokio::spawn(stop.clone().run_until_cancelled_owned(accepting));
        Ok(Self {
            address,
            requests,
            _stop: stop.drop_guard(),
        })
    }

    /// Requests so far.
    pub(super) fn count(&self) -> usize {
        self.requests.load(Ordering::Relaxed)
    }
}

async fn accept(listener: TcpListener, requests: Arc<AtomicUsize>, stop: CancellationToken) {
    while let Ok((stream, _)) = listener.accept().await {
        let connection = serve(stream, Arc::clone(&requests));
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

async fn serve(stream: TcpStream, requests: Arc<AtomicUsize>) {
    let answer = service_fn(move |request: hyper::Request<Incoming>| {
        let requests = Arc::clone(&requests);
        async move {
            if request.into_body().collect().await.is_ok() {
                requests.fetch_add(1, Ordering::Relaxed);
            }
            Ok::<_, Infallible>(Response::new(Empty::<Bytes>::new()))
        }
    });
    let builder = auto::Builder::new(TokioExecutor::new());
    // If a connection breaks, the count of requests shows it.
    let _ = builder.serve_connection(TokioIo::new(stream), answer).await;
}

/// Files of a relay.
pub(super) struct Site {
    root: tempfile::TempDir,
    pub(super) store: PathBuf,
    pub(super) queue: PathBuf,
    socket: PathBuf,
    delivered: PathBuf,
}

impl Site {
    pub(super) fn new(folder: &Path, server: SocketAddr) -> anyhow::Result<Self> {
        let root = tempfile::Builder::new()
            .prefix("chatmail-bench-")
            .tempdir_in(folder)?;
        let path = |name: &str| root.path().join(name);
        let (store, queue) = (path("mail"), path("queue"));
        let (socket, delivered) = (path("metadata.socket"), path("delivered.socket"));
        for folder in [&store, &queue] {
            fs::create_dir(folder)?;
        }
        let sample = include_str!("../../../../chatmail-core/testdata/settings.json");
        let mut settings = chatmail_core::Settings::parse(sample, Path::new("settings.json"))?;
        settings.mailboxes.directory.clone_from(&store);
        settings.push.queue_dir.clone_from(&queue);
        settings.metadata.socket.clone_from(&socket);
        settings.metadata.delivered_socket.clone_from(&delivered);
        settings.push.notification_url = format!("http://{server}/notify");
        let secret = path("secret");
        fs::write(&secret, "a secret of the benchmark")?;
        settings.turn.as_mut().context("no TURN")?.secret_file = secret;
        fs::write(path("settings.json"), serde_json::to_string(&settings)?)?;
        Ok(Self {
            root,
            store,
            queue,
            socket,
            delivered,
        })
    }

    /// Starts the service from the same build as this program.
    pub(super) async fn start(&self) -> anyhow::Result<Service> {
        let settings = self.root.path().join("settings.json");
        let program = Program::start(
            "chatmail-metadata",
            &[OsStr::new("--settings"), settings.as_os_str()],
        )?;
        let service = Service {
            program,
            socket: self.socket.clone(),
            delivered: self.delivered.clone(),
        };
        let end = Instant::now() + PATIENCE;
        while UnixStream::connect(&service.socket).await.is_err() {
            ensure!(Instant::now() < end, "the service does not start");
            tokio::time::sleep(POLL).await;
        }
        Ok(service)
    }

    /// Waits until the queue is empty; fails if the server receives no request for [`PATIENCE`].
    pub(super) async fn until_nothing_is_pending(&self, server: &Server) -> anyhow::Result<()> {
        let (mut seen, mut last) = (server.count(), Instant::now());
        while fs::read_dir(&self.queue)?.next().is_some() {
            if server.count() > seen {
                (seen, last) = (server.count(), Instant::now());
            }
            ensure!(last.elapsed() < PATIENCE, "no further notification after {seen}");
            tokio::time::sleep(POLL).await;
        }
        Ok(())
    }
}

/// A running service; killed when dropped.
pub(super) struct Service {
    program: Program,
    socket: PathBuf,
    delivered: PathBuf,
}

impl Service {
    pub(super) fn client(&self) -> Client {
        Client {
            socket: self.socket.clone(),
            delivered: self.delivered.clone(),
        }
    }

    /// Peak memory in bytes.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        self.program.peak_memory()
    }

    /// Stops the service with SIGTERM.
    pub(super) async fn stop(self) -> anyhow::Result<()> {
        self.program.stop().await
    }
}

/// Speaks the protocols of Dovecot and Postfix.
pub(super) struct Client {
    socket: PathBuf,
    delivered: PathBuf,
}

impl Client {
    /// Sends a request of Dovecot's dict protocol on a new connection, and fails unless it succeeds.
    pub(super) async fn ask(&self, request: &str) -> anyhow::Result<()> {
        let mut stream = BufReader::new(UnixStream::connect(&self.socket).await?);
        stream
            .write_all(format!("H4\t0\t0\t\tmetadata\n{request}").as_bytes())
            .await?;
        let mut reply = String::new();
        stream.read_line(&mut reply).await?;
        ensure!(reply.starts_with('O'), "unexpected reply {reply:?}");
        Ok(())
    }

    /// Sends a request of Postfix's socketmap protocol on a new connection, and waits for the response.
    pub(super) async fn report(&self, request: &str) -> anyhow::Result<()> {
        const RESPONSE: &[u8] = b"9:NOTFOUND ,";
        let mut stream = UnixStream::connect(&self.delivered).await?;
        stream
            .write_all(format!("{}:{request},", request.len()).as_bytes())
            .await?;
        let mut response = [0; RESPONSE.len()];
        stream.read_exact(&mut response).await?;
        ensure!(response == RESPONSE, "unexpected response {response:?}");
        Ok(())
    }
}
