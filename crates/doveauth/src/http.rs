//! The requests of Dovecot's Lua script, over HTTP on loopback.
//!
//! - `POST /auth` with `{"user": "…", "password": "…"}`: `{"status":"ok"}`, `"mismatch"` or `"tempfail"`, see
//!   [`Outcome`];
//! - `GET /users`: the addresses of all accounts, one a line.

use std::sync::Arc;

use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::login::{Logins, Outcome};

/// Octets of the largest request. Dovecot's own limit for user name and password together is half of this.
const MAX_REQUEST: usize = 16 * 1024;

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

/// Answers the requests.
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
