//! The routes and their responses.

use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::Context as _;
use axum::extract::rejection::QueryRejection;
use axum::extract::{Query, State};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use axum::{Json, Router};
use chatmail_core::registration::{Register, Token};
use chatmail_core::settings::{Settings, TlsMode};
use governor::clock::{Clock as _, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};
use qrcode::render::svg;
use qrcode::{EcLevel, QrCode};
use serde::Deserialize;

use crate::account::NewAccount;
use crate::metrics;
use crate::refusal::Refusal;

struct Web {
    settings: Arc<Settings>,
    register: Register,
    limit: DefaultDirectRateLimiter,
    clock: DefaultClock,
}

/// Format of the response to GET. Web pages show the image and link to the redirect, without JavaScript.
#[derive(Clone, Copy, Default, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Format {
    /// On a self-signed relay, the account as JSON; on others, the redirect.
    #[default]
    Json,
    /// A redirect to the link for the app.
    Link,
    /// This link as a QR code.
    Svg,
}

#[derive(Default, Deserialize)]
struct Wanted {
    #[serde(default)]
    format: Format,
    /// The token of an invitation.
    token: Option<String>,
}

type Wish = Result<Query<Wanted>, QueryRejection>;

/// Minimum size of the QR code in CSS pixels.
const CODE_SIZE: u32 = 384;

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
        register: Register::new(&settings.registration),
        limit: RateLimiter::direct(Quota::per_minute(per_minute)),
        clock,
    });
    let new = match settings.tls.mode {
        // Browsers are redirected to a link to the app.
        TlsMode::Acme | TlsMode::External => post(create).get(lead_to_app),
        // Apps would reject the certificate behind such a link, so each visitor gets their own link.
        TlsMode::SelfSigned => post(create).get(create_as),
    };
    Ok(Router::new()
        .route("/new", new)
        .route("/cgi-bin/newemail.py", post(create))
        .method_not_allowed_fallback(async || Refusal::new(StatusCode::METHOD_NOT_ALLOWED, WRONG_METHOD))
        .fallback(async || Refusal::new(StatusCode::NOT_FOUND, NOT_FOUND))
        .with_state(web))
}

async fn create(State(web): State<Arc<Web>>, wish: Wish) -> Result<Response, Refusal> {
    // Clients that ask for something else get an account too, as on the reference relay.
    let wanted = wish.map(|Query(wanted)| wanted).unwrap_or_default();
    let account = web.create(wanted.token.as_deref()).await?;
    Ok(uncached(account))
}

/// Redirects to the link to the app, or shows it. The app gets the account, or the reason why there is none.
async fn lead_to_app(State(web): State<Arc<Web>>, wish: Wish) -> Result<Response, Refusal> {
    let wanted = understood(wish)?;
    let token = wanted.token.as_deref().and_then(Token::parse);
    let query = token.map_or(String::new(), |token| format!("?token={}", token.as_str()));
    let place = format!("https://{}/new{query}", web.settings.domain);
    match wanted.format {
        Format::Json | Format::Link => redirect(StatusCode::MOVED_PERMANENTLY, &format!("dcaccount:{place}")),
        Format::Svg => picture(&format!("DCACCOUNT:{place}")),
    }
}

async fn create_as(State(web): State<Arc<Web>>, wish: Wish) -> Result<Response, Refusal> {
    let wanted = understood(wish)?;
    let account = web.create(wanted.token.as_deref()).await?;
    let link = account.dclogin_url.as_deref().unwrap_or_default();
    match wanted.format {
        Format::Json => Ok(uncached(account)),
        Format::Link => redirect(StatusCode::FOUND, link),
        Format::Svg => picture(link),
    }
}

fn understood(wish: Wish) -> Result<Wanted, Refusal> {
    match wish {
        Ok(Query(wanted)) => Ok(wanted),
        Err(_) => Err(Refusal::new(StatusCode::BAD_REQUEST, WRONG_QUERY)),
    }
}

fn redirect(status: StatusCode, link: &str) -> Result<Response, Refusal> {
    let link = HeaderValue::try_from(link).map_err(|error| {
        tracing::error!("cannot redirect: {error}");
        Refusal::failed()
    })?;
    let headers = [
        (header::LOCATION, link),
        (header::CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((status, headers).into_response())
}

fn picture(link: &str) -> Result<Response, Refusal> {
    let svg = code(link).map_err(|error| {
        tracing::error!("cannot generate a QR code: {error}");
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, NO_PICTURE)
    })?;
    let headers = [
        (header::CONTENT_TYPE, "image/svg+xml"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    Ok((headers, svg).into_response())
}

/// A QR code with medium error correction: the link is long, and the code is scanned from a screen.
fn code(link: &str) -> Result<String, qrcode::types::QrError> {
    let code = QrCode::with_error_correction_level(link, EcLevel::M)?;
    Ok(code
        .render::<svg::Color<'_>>()
        .min_dimensions(CODE_SIZE, CODE_SIZE)
        .build())
}

impl Web {
    /// Generates an account, unless the rate limit is reached or the registration denies it.
    async fn create(&self, token: Option<&str>) -> Result<NewAccount, Refusal> {
        let asked = token.is_some();
        let token = token.and_then(Token::parse);
        // First, so that those without an invitation do not use up the rate limit.
        self.admit(token.clone(), asked).await?;
        if let Err(until) = self.limit.check() {
            metrics::limited();
            tracing::info!("request rejected: too many requests for new addresses");
            let seconds = until.wait_time_from(self.clock.now()).as_secs() + 1;
            return Err(Refusal::too_many(seconds));
        }
        metrics::given();
        let token = token.filter(|_| self.register.by_invitation());
        Ok(NewAccount::generate(
            &self.settings,
            token.as_ref(),
            &mut rand::rng(),
        ))
    }

    async fn admit(&self, token: Option<Token>, asked: bool) -> Result<(), Refusal> {
        let register = self.register.clone();
        let now = chatmail_core::unix_seconds(SystemTime::now());
        let checked = tokio::task::spawn_blocking(move || register.check(token.as_ref(), now)).await;
        match checked.map_err(std::io::Error::other).flatten() {
            Ok(Ok(())) => Ok(()),
            Ok(Err(denied)) => {
                metrics::denied(&denied);
                Err(Refusal::denied(&denied, asked))
            }
            Err(error) => {
                tracing::error!("cannot read the registration: {error}");
                Err(Refusal::failed())
            }
        }
    }
}

/// A response that no cache may store, because it contains a password.
fn uncached(account: NewAccount) -> Response {
    ([(header::CACHE_CONTROL, "no-store")], Json(account)).into_response()
}
