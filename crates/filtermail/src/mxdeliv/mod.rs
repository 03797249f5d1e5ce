//! `POST /mxdeliv`: mail from other relays over HTTPS, behind nginx.
//!
//! The service passes each message to Postfix over SMTP, with the address of the client, so the same rules and the same
//! filter apply as to mail on port 25. It decides only what SMTP does not: how a request becomes an envelope, how slowly
//! a client may send, and which HTTP status a reply becomes.

mod envelope;
mod metrics;

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::post;
use chatmail_core::settings::{Messages, Mxdeliv};
use daemon::{HeadLimits, Service};
use http_body_util::BodyExt as _;
use tokio::time::{Instant, timeout_at};

use self::metrics::Outcome;
use crate::reply::Reply;
use crate::smtp::{Delivery, Envelope};

/// Maximum number of header fields of a request, in addition to one per recipient.
const OTHER_FIELDS: usize = 100;
/// Maximum size of a request's head: the 64 KiB that nginx accepts (`large_client_header_buffers`), and the fields that
/// it adds.
const MAX_HEAD: usize = 96 * 1024;
/// Time that every client has for its message.
const PATIENCE: Duration = Duration::from_secs(60);
/// Minimum rate in bytes per second after that: this many received bytes extend the time by one second.
const SLOWEST: u64 = 8 * 1024;
/// Longest wait for Postfix's reply to a message. Postfix itself waits 180 s for the filter (`smtpd_proxy_timeout`).
const FINAL_TIMEOUT: Duration = Duration::from_secs(190);

/// The state that all requests share.
struct Door {
    postfix: chatmail_core::Endpoint,
    max_message_size: u64,
    max_recipients: usize,
}

/// Runs the service.
pub async fn run(mut service: Service) -> anyhow::Result<()> {
    let settings = Arc::clone(&service.settings);
    let listener = service.unix_listener(&settings.mxdeliv.socket)?;
    service.serve_metrics(|addresses| addresses.filtermail_mxdeliv, metrics::describe)?;
    let router = router(&settings.mxdeliv, &settings.messages);
    let limits = HeadLimits {
        fields: settings.messages.max_recipients + OTHER_FIELDS,
        bytes: MAX_HEAD,
    };
    service.ready("accepting mail over HTTPS");
    daemon::serve_http_within(
        &service,
        listener,
        settings.mxdeliv.max_connections,
        router,
        limits,
    )
    .await;
    Ok(())
}

/// Routes the requests; there is only one path.
pub fn router(settings: &Mxdeliv, messages: &Messages) -> Router {
    let door = Arc::new(Door {
        postfix: settings.postfix.clone(),
        max_message_size: messages.max_size as u64,
        max_recipients: messages.max_recipients,
    });
    Router::new()
        .route("/mxdeliv", post(receive))
        .method_not_allowed_fallback(async || (StatusCode::METHOD_NOT_ALLOWED, "Method Not Allowed"))
        .with_state(door)
}

async fn receive(State(door): State<Arc<Door>>, headers: HeaderMap, body: Body) -> Response {
    let mut body = Arriving::new(body, door.max_message_size);
    let answer = door.deliver(&headers, &mut body).await;
    if answer.rest_is_read() {
        // nginx reads the response only after it has passed on the whole body.
        body.drop_rest().await;
    }
    metrics::count(answer.outcome());
    answer.into_response()
}

/// The answer to a request.
#[derive(Debug, PartialEq)]
enum Answer {
    /// The SMTP reply to the message or its envelope.
    Reply(Reply),
    /// The message is larger than the relay accepts.
    TooLarge,
    /// The client sends too slowly.
    TooSlow,
    /// The client has closed the connection.
    Gone,
    /// The session with Postfix has failed.
    Unavailable,
}

impl Answer {
    fn outcome(&self) -> Outcome {
        match self {
            Self::Reply(reply) if reply.is_success() => Outcome::Accepted,
            Self::Reply(reply) if reply.as_str().starts_with('4') => Outcome::Deferred,
            Self::Reply(_) => Outcome::Refused,
            Self::TooLarge => Outcome::TooLarge,
            Self::TooSlow | Self::Gone => Outcome::Aborted,
            Self::Unavailable => Outcome::Unavailable,
        }
    }

    /// Whether to read the rest of the body, so that the client receives the answer.
    fn rest_is_read(&self) -> bool {
        matches!(self, Self::Reply(_) | Self::Unavailable)
    }
}

impl IntoResponse for Answer {
    fn into_response(self) -> Response {
        let (status, reply) = match self {
            Self::Reply(reply) if reply.is_success() => (StatusCode::OK, reply),
            Self::Reply(reply) => (StatusCode::BAD_REQUEST, reply),
            Self::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, Reply::TOO_LARGE),
            Self::TooSlow | Self::Gone => (StatusCode::REQUEST_TIMEOUT, Reply::TIMEOUT),
            Self::Unavailable => (StatusCode::SERVICE_UNAVAILABLE, Reply::REINJECT_FAILED),
        };
        (status, reply.as_str().to_owned()).into_response()
    }
}

impl Door {
    async fn deliver(&self, headers: &HeaderMap, body: &mut Arriving) -> Answer {
        if declared_length(headers).is_some_and(|length| length > self.max_message_size) {
            return Answer::TooLarge;
        }
        let Some(origin) = origin(headers) else {
            tracing::error!("nginx sends no valid X-Real-IP");
            return Answer::Unavailable;
        };
        let envelope = match envelope::parse(headers, self.max_recipients) {
            Ok(envelope) => envelope,
            Err(reply) => return Answer::Reply(reply),
        };
        match self.pass_on(&envelope, origin, body).await {
            Ok(answer) => answer,
            Err(error) => {
                tracing::warn!("cannot pass a message to {}: {error}", self.postfix);
                Answer::Unavailable
            }
        }
    }

    /// Passes the message to Postfix while it arrives.
    async fn pass_on(
        &self,
        envelope: &Envelope,
        origin: IpAddr,
        body: &mut Arriving,
    ) -> std::io::Result<Answer> {
        let mut delivery = match Delivery::begin(&self.postfix, origin, envelope).await? {
            Ok(delivery) => delivery,
            Err(reply) => return Ok(Answer::Reply(reply)),
        };
        loop {
            match body.next().await {
                Ok(Some(part)) => delivery.write(&part).await?,
                Ok(None) => break,
                // Postfix discards a message without an end.
                Err(answer) => return Ok(answer),
            }
        }
        Ok(Answer::Reply(delivery.finish(FINAL_TIMEOUT).await?))
    }
}

/// A body with limits on its time and size.
struct Arriving {
    body: Body,
    received: u64,
    max: u64,
    begin: Instant,
}

impl Arriving {
    fn new(body: Body, max: u64) -> Self {
        Self {
            body,
            received: 0,
            max,
            begin: Instant::now(),
        }
    }

    /// The next bytes, or `None` at the end.
    async fn next(&mut self) -> Result<Option<Bytes>, Answer> {
        loop {
            let deadline = self.begin + allowed(self.received);
            let frame = match timeout_at(deadline, self.body.frame()).await {
                Err(_) => return Err(Answer::TooSlow),
                Ok(None) => return Ok(None),
                Ok(Some(Err(_))) => return Err(Answer::Gone),
                Ok(Some(Ok(frame))) => frame,
            };
            // Trailers are not part of a message.
            let Ok(part) = frame.into_data() else { continue };
            self.received = self.received.saturating_add(part.len() as u64);
            if self.received > self.max {
                return Err(Answer::TooLarge);
            }
            return Ok(Some(part));
        }
    }

    /// Reads and discards the rest, within the same limits.
    async fn drop_rest(&mut self) {
        while let Ok(Some(_)) = self.next().await {}
    }
}

/// How long a client that has sent `received` bytes may take until the next ones arrive, counted from the start.
fn allowed(received: u64) -> Duration {
    PATIENCE + Duration::from_secs(received / SLOWEST)
}

fn declared_length(headers: &HeaderMap) -> Option<u64> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

/// The address of the client, from nginx.
fn origin(headers: &HeaderMap) -> Option<IpAddr> {
    headers.get("x-real-ip")?.to_str().ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn replies_and_their_status() {
        let status = |text: &str| Answer::Reply(Reply::relayed(text)).into_response().status();
        assert_eq!(status("250 2.0.0 Ok: queued as X"), StatusCode::OK);
        // Reference relays use this status for every rejection; only the text contains the SMTP code.
        assert_eq!(status("451 4.7.5 later"), StatusCode::BAD_REQUEST);
        assert_eq!(status("523 Encryption Needed"), StatusCode::BAD_REQUEST);
        let response = |answer: Answer| answer.into_response().status().as_u16();
        assert_eq!(response(Answer::TooLarge), 413);
        assert_eq!(response(Answer::TooSlow), 408);
        assert_eq!(response(Answer::Unavailable), 503);
    }

    #[test]
    fn time_grows_with_what_has_come() {
        assert_eq!(allowed(0), Duration::from_secs(60));
        assert_eq!(allowed(SLOWEST - 1), Duration::from_secs(60));
        assert_eq!(allowed(50 << 20), Duration::from_secs(60 + 6400));
    }

    #[tokio::test(start_paused = true)]
    async fn slow_and_endless_bodies_are_cut_off() {
        // One byte per second, without end.
        let drip = async_body(|number| (number < 100_000).then_some((1, Duration::from_secs(1))));
        let mut body = Arriving::new(drip, 1 << 20);
        let begin = Instant::now();
        let mut end = Ok(None);
        for _ in 0..100_000 {
            match body.next().await {
                Ok(Some(_)) => {}
                other => {
                    end = other;
                    break;
                }
            }
        }
        assert_eq!(end, Err(Answer::TooSlow));
        assert_eq!(begin.elapsed().as_secs(), 60);

        // As fast as possible, without end.
        let flood = async_body(|_| Some((64 * 1024, Duration::ZERO)));
        let mut body = Arriving::new(flood, 1 << 20);
        let mut parts = 0;
        let end = loop {
            match body.next().await {
                Ok(Some(_)) => parts += 1,
                other => break other,
            }
        };
        assert_eq!((end, parts), (Err(Answer::TooLarge), 16));
    }

    /// A body of parts, each with a size and after a pause.
    fn async_body(part: impl Fn(usize) -> Option<(usize, Duration)> + Send + 'static) -> Body {
        let (sender, receiver) = tokio::sync::mpsc::channel::<Bytes>(1);
        tokio::spawn(async move {
            for number in 0.. {
                let Some((size, pause)) = part(number) else { return };
                tokio::time::sleep(pause).await;
                if sender.send(Bytes::from(vec![b'x'; size])).await.is_err() {
                    return;
                }
            }
        });
        Body::new(Channel(receiver))
    }

    struct Channel(tokio::sync::mpsc::Receiver<Bytes>);

    impl axum::body::HttpBody for Channel {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            mut self: std::pin::Pin<&mut Self>,
            context: &mut std::task::Context<'_>,
        ) -> std::task::Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
            self.0
                .poll_recv(context)
                .map(|part| part.map(|part| Ok(hyper::body::Frame::data(part))))
        }
    }
}
