//! A notification server in place of notifications.delta.chat: the lab's DNS resolves that name to this machine, and
//! the certificate is from the lab's CA.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::{Bytes, Incoming};
use hyper::header::RETRY_AFTER;
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::harness::tls;
use crate::scenarios::Context;

/// The server in the relays' settings.
const NAME: &str = "notifications.delta.chat";

/// Maximum size of a body.
const MAX_BODY: usize = 16 * 1024;

/// A request.
#[derive(Debug, Clone)]
pub(super) struct Notification {
    /// The token in its body.
    pub(super) token: String,
    /// When it arrived.
    pub(super) at: Instant,
    /// Address of the client.
    pub(super) from: SocketAddr,
    /// Whether it used HTTP/2.
    pub(super) http2: bool,
}

/// The requests to a server, and how it responds.
#[derive(Debug, Default)]
struct Shared {
    got: Mutex<Vec<Notification>>,
    arrived: Notify,
    /// If cancelled, the server responds to everything with 200.
    healed: CancellationToken,
}

/// A running server; stops when dropped.
pub(super) struct Server {
    shared: Arc<Shared>,
    _stop: DropGuard,
}

impl Server {
    /// Starts the server and publishes its name. The first word of a token selects the response: 410 for `gone`; the
    /// first time, 429, 500 and a reset for `busy`, `error` and `reset`; none for `hang`; and 200 for all others.
    pub(super) async fn start(context: &Context) -> anyhow::Result<Self> {
        let host = context.topology.host;
        let machines = context.machines();
        let certificate = machines.certificate(&[NAME.to_owned()])?;
        let acceptor = tls::acceptor(&certificate, &["h2", "http/1.1"])?;
        let listener = TcpListener::bind((host, 443))
            .await
            .with_context(|| format!("cannot start {NAME} on {host}"))?;
        machines
            .publish(NAME, &format!("{NAME}. 60 IN A {host}\n"))
            .await?;
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        tokio::spawn(stop.clone().run_until_cancelled_owned(accept(
            listener,
            acceptor,
            Arc::clone(&shared),
            stop.clone(),
        )));
        Ok(Self {
            shared,
            _stop: stop.drop_guard(),
        })
    }

    /// Returns all requests with a token.
    pub(super) fn of(&self, token: &str) -> Vec<Notification> {
        let got = self.shared.got.lock().unwrap_or_else(PoisonError::into_inner);
        got.iter().filter(|one| one.token == token).cloned().collect()
    }

    /// Waits until this many requests with a token have arrived; returns all of them.
    pub(super) async fn wait(
        &self,
        token: &str,
        count: usize,
        within: Duration,
    ) -> anyhow::Result<Vec<Notification>> {
        let waiting = async {
            loop {
                let mut arrived = std::pin::pin!(self.shared.arrived.notified());
                arrived.as_mut().enable();
                let got = self.of(token);
                if got.len() >= count {
                    return got;
                }
                arrived.await;
            }
        };
        match tokio::time::timeout(within, waiting).await {
            Ok(got) => Ok(got),
            Err(_) => bail!(
                "{} notifications instead of {count} for {token} within {within:?}",
                self.of(token).len()
            ),
        }
    }

    /// From now on, responds to everything with 200, including requests that hang.
    pub(super) fn heal(&self) {
        self.shared.healed.cancel();
    }
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>, stop: CancellationToken) {
    while let Ok((stream, from)) = listener.accept().await {
        let connection = serve(stream, from, acceptor.clone(), Arc::clone(&shared));
        tokio::spawn(stop.clone().run_until_cancelled_owned(connection));
    }
}

async fn serve(stream: TcpStream, from: SocketAddr, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let reset = CancellationToken::new();
    let service = service_fn(|request| answer(request, from, Arc::clone(&shared), reset.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        // Errors do not matter: the relay sends its next request on another connection.
        _ = connection => {}
        () = reset.cancelled() => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    from: SocketAddr,
    shared: Arc<Shared>,
    reset: CancellationToken,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    let http2 = request.version() == Version::HTTP_2;
    let expected = request.method() == "POST" && request.uri().path() == "/notify";
    let body = Limited::new(request.into_body(), MAX_BODY).collect().await;
    let token = body
        .ok()
        .and_then(|body| String::from_utf8(body.to_bytes().to_vec()).ok());
    let (Some(token), true) = (token, expected) else {
        return Ok(response(StatusCode::BAD_REQUEST));
    };
    let first = {
        let mut got = shared.got.lock().unwrap_or_else(PoisonError::into_inner);
        let first = !got.iter().any(|one| one.token == token);
        got.push(Notification {
            token: token.clone(),
            at: Instant::now(),
            from,
            http2,
        });
        first
    };
    shared.arrived.notify_waiters();
    if shared.healed.is_cancelled() {
        return Ok(response(StatusCode::OK));
    }
    let mut response = response(match token.split('-').next() {
        Some("gone") => StatusCode::GONE,
        Some("busy") if first => StatusCode::TOO_MANY_REQUESTS,
        Some("error") if first => StatusCode::INTERNAL_SERVER_ERROR,
        Some("reset") if first => {
            reset.cancel();
            std::future::pending().await
        }
        Some("hang") => {
            shared.healed.cancelled().await;
            StatusCode::OK
        }
        _ => StatusCode::OK,
    });
    if response.status() == StatusCode::TOO_MANY_REQUESTS {
        response.headers_mut().insert(RETRY_AFTER, 2.into());
    }
    Ok(response)
}

fn response(status: StatusCode) -> Response<Empty<Bytes>> {
    let mut response = Response::new(Empty::new());
    *response.status_mut() = status;
    response
}
