//! The routes, and what they answer.

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::State;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chatmail_core::settings::{Settings, TlsMode};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use serde::Serialize;

use crate::account::NewAccount;

struct Web {
    settings: Arc<Settings>,
    limit: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

/// A refusal. Clients show `reason` to the person who scanned the code.
#[derive(Serialize)]
struct Refusal {
    reason: &'static str,
}

const TOO_MANY: &str =
    "Too many people are asking for a new address right now. Please try again in a minute.";
const WRONG_METHOD: &str = "This address only answers POST, and GET where it stands for a link to the app.";
const NOT_FOUND: &str = "There is nothing here. New addresses are given out at /new.";

/// Builds the routes: `/new`, and the path that clients of old relays still know.
pub(crate) fn router(settings: &Arc<Settings>) -> anyhow::Result<Router> {
    let per_minute =
        NonZeroU32::new(settings.newemail.max_per_minute).context("`newemail.max_per_minute` is 0")?;
    let clock = DefaultClock::default();
    let web = Arc::new(Web {
        settings: Arc::clone(settings),
        limit: RateLimiter::direct(Quota::per_minute(per_minute)),
        clock,
    });
    let new = match settings.tls.mode {
        // A link to the app, for people who open the address in a browser.
        TlsMode::Acme | TlsMode::External => {
            let link = HeaderValue::try_from(format!("dcaccount:https://{}/new", settings.domain))
                .context("`domain` cannot stand in a link")?;
            post(create).get(async move || {
                let headers = [
                    (header::LOCATION, link),
                    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                ];
                (StatusCode::MOVED_PERMANENTLY, headers)
            })
        }
        // Apps would refuse the certificate behind such a link. The website gets an account with a link of its own.
        TlsMode::SelfSigned => post(create).merge(get(create)),
    };
    Ok(Router::new()
        .route("/new", new)
        .route("/cgi-bin/newemail.py", post(create))
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, WRONG_METHOD))
        .fallback(async || refuse(StatusCode::NOT_FOUND, NOT_FOUND))
        .with_state(web))
}

async fn create(State(web): State<Arc<Web>>) -> Response {
    match web.limit.check() {
        Ok(()) => uncached(
            StatusCode::OK,
            NewAccount::generate(&web.settings, &mut rand::rng()),
        ),
        Err(until) => {
            let seconds = until.wait_time_from(web.clock.now()).as_secs() + 1;
            tracing::info!("too many requests for new addresses");
            (
                [(header::RETRY_AFTER, seconds)],
                refuse(StatusCode::TOO_MANY_REQUESTS, TOO_MANY),
            )
                .into_response()
        }
    }
}

fn refuse(status: StatusCode, reason: &'static str) -> Response {
    uncached(status, Refusal { reason })
}

/// No cache between here and the person may keep a password, or a refusal that no longer holds.
fn uncached(status: StatusCode, body: impl Serialize) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
