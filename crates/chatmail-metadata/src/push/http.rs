//! The notification server over HTTPS.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use reqwest::header::{HeaderMap, RETRY_AFTER};
use reqwest::{Client, StatusCode, Url, redirect};
use tokio::time::{Instant, timeout};

use super::post::{Post, Reply};

/// Maximum duration of a request.
pub const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);

/// Interval of HTTP/2 pings on a connection with requests, and maximum wait for the reply.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Maximum size of a response that is read, so that an HTTP/1.1 connection can be reused.
const MAX_BODY: usize = 16 * 1024;

/// How long after a response a connection counts as open. The client closes connections that are idle for 90 s.
const WARM: Duration = Duration::from_secs(60);

/// How long requests wait for the first one to open a connection, even if the server hangs.
const OPENING: Duration = Duration::from_secs(2);

/// A client that keeps its connection open: with HTTP/2, one connection carries all requests.
#[derive(Debug)]
pub struct NotificationServer {
    client: Client,
    url: Url,
    /// Time of the last response.
    responded: Mutex<Option<Instant>>,
    /// Held by the request that opens the connection. Without it, each request of a burst would open one, since the
    /// client learns only from a connection that the server speaks HTTP/2.
    opening: tokio::sync::Mutex<()>,
}

impl NotificationServer {
    /// Trusts the certificate authorities of the system, or those in the file that `SSL_CERT_FILE` names.
    pub fn new(url: Url, request_timeout: Duration) -> reqwest::Result<Self> {
        let client = Client::builder()
            .user_agent(concat!("chatmail-metadata/", env!("CARGO_PKG_VERSION")))
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(request_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .http2_keep_alive_timeout(KEEP_ALIVE)
            .build()?;
        Ok(Self {
            client,
            url,
            responded: Mutex::new(None),
            opening: tokio::sync::Mutex::new(()),
        })
    }

    fn is_warm(&self) -> bool {
        let responded = self.responded.lock().unwrap_or_else(PoisonError::into_inner);
        responded.is_some_and(|at| at.elapsed() < WARM)
    }

    fn set_warm(&self, warm: bool) {
        let mut responded = self.responded.lock().unwrap_or_else(PoisonError::into_inner);
        *responded = warm.then(Instant::now);
    }

    async fn request(&self, token: &str) -> reqwest::Result<Reply> {
        let mut response = self
            .client
            .post(self.url.clone())
            .body(token.to_owned())
            .send()
            .await?;
        let status = response.status();
        let after = retry_after(response.headers(), SystemTime::now());
        let mut read = 0;
        while read < MAX_BODY
            && let Some(piece) = response.chunk().await?
        {
            read += piece.len();
        }
        Ok(match status {
            StatusCode::GONE => Reply::Gone,
            status if status.is_success() => Reply::Delivered,
            status => Reply::Failed {
                after,
                reason: status.to_string(),
            },
        })
    }
}

impl Post for NotificationServer {
    async fn post(&self, token: &str) -> Reply {
        let mut opening = None;
        if !self.is_warm() {
            opening = timeout(OPENING, self.opening.lock()).await.ok();
        }
        if self.is_warm() {
            opening = None;
        }
        let result = self.request(token).await;
        self.set_warm(result.is_ok());
        drop(opening);
        match result {
            Ok(reply) => reply,
            Err(error) => Reply::Failed {
                after: None,
                reason: with_causes(&error),
            },
        }
    }
}

/// An error with its causes, which reqwest omits. Neither contains the body of the request.
fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}

/// Parses `Retry-After`: seconds or a date (RFC 9110 section 10.2.3).
fn retry_after(headers: &HeaderMap, now: SystemTime) -> Option<Duration> {
    let text = headers.get(RETRY_AFTER)?.to_str().ok()?.trim();
    if let Ok(seconds) = text.parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = httpdate::parse_http_date(text).ok()?;
    Some(date.duration_since(now).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = httpdate::parse_http_date("Tue, 24 Nov 2026 20:00:00 GMT").unwrap();
        let read = |value: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(RETRY_AFTER, value.parse().unwrap());
            retry_after(&headers, now)
        };
        assert_eq!(read("120"), Some(Duration::from_secs(120)));
        assert_eq!(
            read("Tue, 24 Nov 2026 20:01:00 GMT"),
            Some(Duration::from_secs(60))
        );
        assert_eq!(read("Tue, 24 Nov 2026 19:00:00 GMT"), Some(Duration::ZERO));
        assert_eq!(read("soon"), None);
        assert_eq!(read("-1"), None);
        assert_eq!(retry_after(&HeaderMap::new(), now), None);
    }
}
