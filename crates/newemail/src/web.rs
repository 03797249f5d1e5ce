//! The routes and their responses.

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Context as _;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use chatmail_core::settings::{Settings, TlsMode};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use serde::{Deserialize, Serialize};

use crate::account::NewAccount;
use crate::metrics;

struct Web {
    settings: Arc<Settings>,
    limit: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

/// An error response. Clients show `reason` to the person who scanned the code.
#[derive(Serialize)]
struct Refusal {
    reason: &'static str,
}

/// Format of the response to GET on a self-signed relay: its web site shows the image and links to the redirect,
/// without JavaScript.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Format {
    /// The account as JSON.
    #[default]
    Json,
    /// A redirect to the account's link.
    Link,
    /// The account's link as a QR code.
    Svg,
}

#[derive(Deserialize)]
struct Wanted {
    #[serde(default)]
    format: Format,
}

/// Minimum size of the QR code in CSS pixels.
const CODE_SIZE: u32 = 384;

const TOO_MANY: &str =
    "Too many people are asking for a new address right now. Please try again in a minute.";
const WRONG_METHOD: &str = "Use POST to get a new address.";
const NO_PICTURE: &str = "The QR code cannot be generated.";
const WRONG_QUERY: &str = "`format` must be `json`, `link` or `svg`.";
const NOT_FOUND: &str = "Not found. Use POST /new to get a new address.";

/// Builds the routes: `/new`, and the path that clients of old relays use.
pub(crate) fn router(settings: &Arc<Settings>) -> anyhow::Result<Router> {
    let per_minute = NonZeroU32::new(settings.web.new_addresses_per_minute)
        .context("web.new_addresses_per_minute is 0")?;
    let clock = DefaultClock::default();
    let web = Arc::new(Web {
        settings: Arc::clone(settings),
        limit: RateLimiter::direct(Quota::per_minute(per_minute)),
        clock,
    });
    let new = match settings.tls.mode {
        // Browsers are redirected to a link to the app.
        TlsMode::Acme | TlsMode::External => {
            let link = HeaderValue::try_from(format!("dcaccount:https://{}/new", settings.domain))
                .context("`domain` is not valid in a link")?;
            post(create).get(async move || {
                let headers = [
                    (header::LOCATION, link),
                    (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
                ];
                (StatusCode::MOVED_PERMANENTLY, headers)
            })
        }
        // Apps would reject the certificate behind such a link, so each visitor gets their own link.
        TlsMode::SelfSigned => post(create).merge(get(create_as)),
    };
    Ok(Router::new()
        .route("/new", new)
        .route("/cgi-bin/newemail.py", post(create))
        .method_not_allowed_fallback(async || refuse(StatusCode::METHOD_NOT_ALLOWED, WRONG_METHOD))
        .fallback(async || refuse(StatusCode::NOT_FOUND, NOT_FOUND))
        .with_state(web))
}

async fn create(State(web): State<Arc<Web>>) -> Response {
    match web.create() {
        Ok(account) => uncached(StatusCode::OK, account),
        Err(refusal) => refusal.into_response(),
    }
}

async fn create_as(
    State(web): State<Arc<Web>>,
    wanted: Result<Query<Wanted>, axum::extract::rejection::QueryRejection>,
) -> Response {
    let Ok(Query(Wanted { format })) = wanted else {
        return refuse(StatusCode::BAD_REQUEST, WRONG_QUERY);
    };
    let account = match web.create() {
        Ok(account) => account,
        Err(refusal) => return refusal.into_response(),
    };
    let link = account.dclogin_url.as_deref().unwrap_or_default();
    match format {
        Format::Json => uncached(StatusCode::OK, account),
        Format::Link => (
            StatusCode::FOUND,
            [(header::LOCATION, link), (header::CACHE_CONTROL, "no-store")],
        )
            .into_response(),
        Format::Svg => match picture(link) {
            Ok(svg) => (
                [
                    (header::CONTENT_TYPE, "image/svg+xml"),
                    (header::CACHE_CONTROL, "no-store"),
                ],
                svg,
            )
                .into_response(),
            Err(error) => {
                tracing::error!("cannot generate a QR code: {error}");
                refuse(StatusCode::INTERNAL_SERVER_ERROR, NO_PICTURE)
            }
        },
    }
}

/// A QR code with medium error correction: the link is long, and the code is scanned from a screen.
fn picture(link: &str) -> Result<String, qrcode::types::QrError> {
    let code = QrCode::with_error_correction_level(link, EcLevel::M)?;
    Ok(code
        .render::<svg::Color<'_>>()
        .min_dimensions(CODE_SIZE, CODE_SIZE)
        .build())
}

impl Web {
    /// Generates an account unless the rate limit is reached.
    fn create(&self) -> Result<NewAccount, TooMany> {
        match self.limit.check() {
            Ok(()) => {
                metrics::given();
                Ok(NewAccount::generate(&self.settings, &mut rand::rng()))
            }
            Err(until) => {
                metrics::limited();
                tracing::info!("request rejected: too many requests for new addresses");
                let seconds = until.wait_time_from(self.clock.now()).as_secs() + 1;
                Err(TooMany { seconds })
            }
        }
    }
}

/// The rate limit is reached; the next account is available after this time.
struct TooMany {
    seconds: u64,
}

impl IntoResponse for TooMany {
    fn into_response(self) -> Response {
        let refusal = refuse(StatusCode::TOO_MANY_REQUESTS, TOO_MANY);
        ([(header::RETRY_AFTER, self.seconds)], refusal).into_response()
    }
}

fn refuse(status: StatusCode, reason: &'static str) -> Response {
    uncached(status, Refusal { reason })
}

/// A response that no cache may store: it contains a password, or an error that soon no longer applies.
fn uncached(status: StatusCode, body: impl Serialize) -> Response {
    (status, [(header::CACHE_CONTROL, "no-store")], Json(body)).into_response()
}
