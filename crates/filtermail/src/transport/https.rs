//! The HTTPS client.

use std::time::Duration;

use bytes::Bytes;
use reqwest::header::{HeaderMap, HeaderName, HeaderValue};
use reqwest::{Client, Url, redirect};

use super::answer::Answer;
use super::hosts::{Destination, Hosts};
use crate::smtp::Envelope;

/// Timeout for a connection with TLS, and for the acknowledgement of what was sent on an open one (`TCP_USER_TIMEOUT`).
/// Short, so that Postfix soon continues with SMTP if a firewall drops packets.
pub(super) const NO_ANSWER: Duration = Duration::from_secs(5);
/// Timeout of a delivery, plus the time for the bytes of the message. Postfix waits 600 s for the reply
/// (`smtp_data_done_timeout`), which must suffice for two hosts.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);
/// Minimum transfer rate in bytes per second.
const SLOWEST: u64 = 256 * 1024;
/// Time for which a connection without requests is kept open.
const IDLE: Duration = Duration::from_secs(60);
/// Maximum number of connections without requests to one host.
const IDLE_PER_HOST: usize = 4;
/// Interval of pings on an HTTP/2 connection with a request in progress, and their timeout.
const KEEP_ALIVE: Duration = Duration::from_secs(20);
/// Maximum number of bytes to read from a response.
const MAX_ANSWER: usize = 4096;

/// Two clients: one that verifies certificates, and one for destinations whose certificates cannot be verified.
pub(super) struct Https {
    verifying: Client,
    trusting: Client,
    port: u16,
}

impl Https {
    /// Creates clients that connect to this port of the addresses from `hosts`.
    pub(super) fn new(hosts: &Hosts, port: u16) -> reqwest::Result<Self> {
        let client = |trusting| {
            Client::builder()
                .dns_resolver(std::sync::Arc::new(hosts.clone()))
                .danger_accept_invalid_certs(trusting)
                .https_only(true)
                .no_proxy()
                .redirect(redirect::Policy::none())
                .referer(false)
                .connect_timeout(NO_ANSWER)
                .tcp_user_timeout(NO_ANSWER)
                .pool_idle_timeout(IDLE)
                .pool_max_idle_per_host(IDLE_PER_HOST)
                .http2_keep_alive_interval(KEEP_ALIVE)
                .http2_keep_alive_timeout(KEEP_ALIVE)
                .build()
        };
        Ok(Self {
            verifying: client(false)?,
            trusting: client(true)?,
            port,
        })
    }

    /// Sends a message to a host.
    pub(super) async fn post(
        &self,
        destination: &Destination,
        host: &str,
        fields: &HeaderMap,
        message: Bytes,
    ) -> Answer {
        let Ok(url) = Url::parse(&format!("https://{host}:{}/mxdeliv", self.port)) else {
            return Answer::Failed;
        };
        let client = if destination.is_unverifiable() {
            &self.trusting
        } else {
            &self.verifying
        };
        let request = client
            .post(url)
            .headers(fields.clone())
            .timeout(allowed(message.len()))
            .body(message);
        let mut response = match request.send().await {
            Ok(response) => response,
            Err(error) => {
                tracing::debug!("no delivery over HTTPS: {error}");
                return Answer::Failed;
            }
        };
        let mut text = Vec::new();
        while text.len() < MAX_ANSWER {
            match response.chunk().await {
                Ok(Some(part)) => text.extend_from_slice(part.get(..MAX_ANSWER).unwrap_or(&part)),
                Ok(None) => break,
                Err(_) => return Answer::Failed,
            }
        }
        Answer::of(response.status().as_u16(), &String::from_utf8_lossy(&text))
    }
}

/// Returns the timeout for a message of this size.
fn allowed(size: usize) -> Duration {
    REQUEST_TIMEOUT + Duration::from_secs(size as u64 / SLOWEST)
}

/// Returns the envelope as header fields; none if they cannot express it.
pub(super) fn fields(envelope: &Envelope) -> Option<HeaderMap> {
    let value = |address: &str| {
        let plain = address.bytes().all(|b| b == b' ' || b.is_ascii_graphic());
        plain.then(|| HeaderValue::from_str(address).ok())?
    };
    let mut fields = HeaderMap::new();
    if !envelope.sender.address.is_empty() {
        fields.insert(
            HeaderName::from_static("x-mail-from"),
            value(&envelope.sender.address)?,
        );
    }
    for recipient in &envelope.recipients {
        fields.append(HeaderName::from_static("x-mail-to"), value(&recipient.address)?);
    }
    Some(fields)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::smtp::Path;

    #[test]
    fn envelopes_as_fields() {
        let path = |address: &str| Path {
            address: address.to_owned(),
            parameters: "BODY=8BITMIME".to_owned(),
        };
        let envelope = |from, to: &[&str]| Envelope {
            sender: path(from),
            recipients: to.iter().map(|to| path(to)).collect(),
            origin: None,
        };
        let fields_of = fields(&envelope("a@x", &["b@y", "c@y"])).unwrap();
        assert_eq!(fields_of.get("x-mail-from").unwrap(), "a@x");
        assert_eq!(fields_of.get_all("x-mail-to").iter().count(), 2);
        let fields_of = fields(&envelope("", &["b@y"])).unwrap();
        assert!(!fields_of.contains_key("x-mail-from"));
        assert_eq!(fields(&envelope("\u{e9}@x", &["b@y"])), None);
    }
}
