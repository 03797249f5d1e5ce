//! The requests of Dovecot's Lua script, over HTTP on loopback.
//!
//! - `POST /auth` with `{"user": "…", "password": "…"}`: `{"status":"ok"}`, `"mismatch"` or `"tempfail"`, see
//!   [`Outcome`];
//! - `GET /users`: the addresses of all accounts, one a line.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use daemon::CancellationToken;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use serde::{Deserialize, Serialize};
use tokio::net::TcpStream;
use zeroize::Zeroizing;

use crate::login::{Logins, Outcome};

/// Octets of the largest request. Dovecot's own limit for user name and password together is half of this.
const MAX_REQUEST: usize = 16 * 1024;

/// How long a connection may take to send the head of a request, or stay open without one.
const IDLE: Duration = Duration::from_secs(60);

/// A login.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Auth {
    user: String,
    password: Zeroizing<String>,
}

/// The outcome of a login.
#[derive(Serialize)]
struct Status {
    status: Outcome,
}

/// The service that [`serve`] takes.
pub fn router(logins: Arc<Logins>) -> axum::Router {
    axum::Router::new()
        .route("/auth", post(auth))
        .route("/users", get(users))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(logins)
}

async fn auth(State(logins): State<Arc<Logins>>, Json(request): Json<Auth>) -> Json<Status> {
    let status = logins.login(&request.user, Arc::new(request.password)).await;
    Json(Status { status })
}

async fn users(State(logins): State<Arc<Logins>>) -> Result<String, StatusCode> {
    logins.addresses().await.map_err(|error| {
        tracing::error!("cannot list the accounts: {error}");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}

/// Serves one connection until the peer closes it; at shutdown, until the request that is under way is answered.
pub async fn serve(router: axum::Router, stream: TcpStream, shutdown: CancellationToken) {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("a connection ended early: {error}");
    }
}
