//! The requests of Dovecot's Lua script, over HTTP on a Unix socket that only Dovecot's auth workers can connect to.
//!
//! - `POST /auth` with the user on the first line, followed by the password, which may be any bytes:
//!   returns `{"status":"ok"}`, `"mismatch"` or `"tempfail"`, see [`Outcome`];
//! - `GET /users` returns the addresses of all accounts, one per line.

use std::sync::Arc;

use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Json, State};
use axum::http::StatusCode;
use axum::routing::{get, post};
use serde::Serialize;
use zeroize::Zeroizing;

use crate::login::{Logins, Outcome};

/// Maximum size of a request in bytes. Dovecot's own limit for user name and password together is half of this.
const MAX_REQUEST: usize = 16 * 1024;

/// The outcome of a login.
#[derive(Serialize)]
struct Status {
    status: Outcome,
}

/// Routes the requests.
pub fn router(logins: Arc<Logins>) -> axum::Router {
    axum::Router::new()
        .route("/auth", post(auth))
        .route("/users", get(users))
        .layer(DefaultBodyLimit::max(MAX_REQUEST))
        .with_state(logins)
}

async fn auth(State(logins): State<Arc<Logins>>, request: Bytes) -> Result<Json<Status>, StatusCode> {
    let mut parts = request.splitn(2, |&byte| byte == b'\n');
    let (Some(user), Some(password)) = (parts.next(), parts.next()) else {
        return Err(StatusCode::BAD_REQUEST);
    };
    let password = Arc::new(Zeroizing::new(password.to_vec()));
    // A name that is not UTF-8 is rejected like any other malformed address.
    let status = logins.login(&String::from_utf8_lossy(user), password).await;
    Ok(Json(Status { status }))
}

async fn users(State(logins): State<Arc<Logins>>) -> Result<String, StatusCode> {
    logins.addresses().await.map_err(|error| {
        tracing::error!("cannot list the accounts: {error}");
        StatusCode::INTERNAL_SERVER_ERROR
    })
}
