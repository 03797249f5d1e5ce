//! An HTTPS server with its own certificate authority, which responds as the first word of a token says.

use std::convert::Infallible;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::RETRY_AFTER;
use hyper::service::service_fn;
use hyper::{Request, Response, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::pki_types::PrivateKeyDer;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;

use crate::process::PATIENCE;

/// What the server has seen.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) connections: usize,
    /// Bodies of requests, in their order.
    pub(crate) tokens: Vec<String>,
    pub(crate) other_than_http2: usize,
    /// Tokens that are answered with 200 whatever their first word is.
    pub(crate) healed: bool,
}

impl Seen {
    pub(crate) fn count(&self, token: &str) -> usize {
        self.tokens.iter().filter(|seen| *seen == token).count()
    }
}

pub(crate) struct Server {
    pub(crate) url: String,
    _dir: tempfile::TempDir,
    authority: PathBuf,
    shared: Arc<Shared>,
    stop: CancellationToken,
}

#[derive(Debug, Default)]
struct Shared {
    seen: Mutex<Seen>,
    changed: Notify,
}

impl Server {
    pub(crate) async fn start() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let authority = dir.path().join("authority.pem");
        let acceptor = TlsAcceptor::from(Arc::new(tls(&authority)));
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let url = format!(
            "https://localhost:{}/notify",
            listener.local_addr().unwrap().port()
        );
        let shared = Arc::new(Shared::default());
        let stop = CancellationToken::new();
        tokio::spawn(accept(listener, acceptor, Arc::clone(&shared), stop.clone()));
        Self {
            url,
            _dir: dir,
            authority,
            shared,
            stop,
        }
    }

    /// File with the certificate of the server's authority.
    pub(crate) fn authority(&self) -> &Path {
        &self.authority
    }

    pub(crate) fn seen(&self) -> Seen {
        self.shared.seen.lock().unwrap().clone()
    }

    pub(crate) fn heal(&self) {
        self.shared.seen.lock().unwrap().healed = true;
    }

    /// Waits until the server has seen the expected requests.
    pub(crate) async fn until(&self, enough: impl Fn(&Seen) -> bool) {
        let waiting = async {
            loop {
                let changed = self.shared.changed.notified();
                if enough(&self.seen()) {
                    return;
                }
                changed.await;
            }
        };
        if timeout(PATIENCE, waiting).await.is_err() {
            panic!("the server saw no more than {:?}", self.seen());
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

fn tls(authority: &Path) -> ServerConfig {
    let mut params = CertificateParams::new([]).unwrap();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let issuer = Issuer::new(params.clone(), KeyPair::generate().unwrap());
    let own = params.self_signed(issuer.key()).unwrap();
    std::fs::write(authority, own.pem()).unwrap();
    let key = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(["localhost".to_owned()])
        .unwrap()
        .signed_by(&key, &issuer)
        .unwrap();
    let key = PrivateKeyDer::Pkcs8(key.serialize_der().into());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], key)
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config
}

async fn accept(listener: TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>, stop: CancellationToken) {
    loop {
        tokio::select! {
            () = stop.cancelled() => return,
            accepted = listener.accept() => {
                let (stream, _) = accepted.unwrap();
                shared.seen.lock().unwrap().connections += 1;
                tokio::spawn(serve(stream, acceptor.clone(), Arc::clone(&shared), stop.clone()));
            }
        }
    }
}

async fn serve(stream: TcpStream, acceptor: TlsAcceptor, shared: Arc<Shared>, stop: CancellationToken) {
    let Ok(stream) = acceptor.accept(stream).await else {
        return;
    };
    let reset = CancellationToken::new();
    let service = service_fn(|request| answer(request, Arc::clone(&shared), reset.clone()));
    let builder = auto::Builder::new(TokioExecutor::new());
    let connection = builder.serve_connection(TokioIo::new(stream), service);
    tokio::select! {
        _ = connection => {}
        // Drops the connection in the middle of whatever it carries.
        () = reset.cancelled() => {}
        () = stop.cancelled() => {}
    }
}

async fn answer(
    request: Request<Incoming>,
    shared: Arc<Shared>,
    reset: CancellationToken,
) -> Result<Response<Empty<Bytes>>, Infallible> {
    assert_eq!(
        (request.method().as_str(), request.uri().path()),
        ("POST", "/notify")
    );
    let http2 = request.version() == Version::HTTP_2;
    let body = request.into_body().collect().await.unwrap().to_bytes();
    let token = String::from_utf8(body.to_vec()).unwrap();
    let (again, healed) = {
        let mut seen = shared.seen.lock().unwrap();
        let again = seen.count(&token) > 0;
        seen.other_than_http2 += usize::from(!http2);
        seen.tokens.push(token.clone());
        (again, seen.healed)
    };
    shared.changed.notify_waiters();
    let response = Response::builder();
    let response = match token.split('-').next().unwrap() {
        _ if healed => response.status(200),
        "gone" => response.status(410),
        // These work the second time.
        "busy" if !again => response.status(429).header(RETRY_AFTER, "1"),
        "error" if !again => response.status(500),
        "reset" if !again => {
            reset.cancel();
            std::future::pending().await
        }
        "hang" => std::future::pending().await,
        _ => response.status(200),
    };
    Ok(response.body(Empty::new()).unwrap())
}
