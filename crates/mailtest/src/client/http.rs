//! HTTP requests, each on its own connection with the caller's TLS settings.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use http_body_util::{BodyExt as _, Empty, Limited};
use hyper::body::Bytes;
use hyper::client::conn::http1;
use hyper::http::response::Parts;
use hyper::{HeaderMap, Request, header};
use hyper_util::rt::TokioIo;

use super::tls::Tls;
use super::wire::{Secured, Wire};

/// Maximum size of a body.
const MAX_BODY: usize = 4 * 1024 * 1024;
/// Maximum time from a request to the end of its response.
const WITHIN: Duration = Duration::from_secs(30);

/// The response to a request.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Status line and header fields, for error messages.
    pub head: String,
    /// Body.
    pub body: Vec<u8>,
    /// The TLS parameters.
    pub secured: Option<Secured>,
    fields: HeaderMap,
}

impl Answer {
    /// Returns the value of the first header field with this name, ignoring case.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.get(name)?.to_str().ok()
    }
}

/// Requests `https://NAME/PATH` at this address.
pub async fn request(
    address: SocketAddr,
    tls: &Tls,
    name: &str,
    method: &str,
    path: &str,
) -> anyhow::Result<Answer> {
    request_in(address, tls, name, method, path, "en").await
}

/// Like [`request`], with this `Accept-Language` field (RFC 9110 section 12.5.4).
pub async fn request_in(
    address: SocketAddr,
    tls: &Tls,
    name: &str,
    method: &str,
    path: &str,
    languages: &str,
) -> anyhow::Result<Answer> {
    let wire = Wire::connect_tls(address, tls, name).await?;
    exchange(wire, name, method, path, languages).await
}

/// Returns the protocol that the server selects by ALPN.
pub async fn agreed(address: SocketAddr, tls: &Tls, name: &str) -> anyhow::Result<Option<String>> {
    let wire = Wire::connect_tls(address, tls, name).await?;
    Ok(wire.secured().and_then(|secured| secured.alpn.clone()))
}

/// Sends a GET request without TLS.
pub async fn get_plain(address: SocketAddr, name: &str, path: &str) -> anyhow::Result<Answer> {
    exchange(Wire::connect(address).await?, name, "GET", path, "en").await
}

async fn exchange(
    wire: Wire,
    name: &str,
    method: &str,
    path: &str,
    languages: &str,
) -> anyhow::Result<Answer> {
    let secured = wire.secured().cloned();
    let mut request = Request::builder()
        .method(method)
        .uri(path)
        .header(header::HOST, name)
        .header(header::ACCEPT_LANGUAGE, languages)
        .header(header::CONNECTION, "close");
    if method == "POST" {
        // RFC 9110 section 8.6; hyper leaves it out.
        request = request.header(header::CONTENT_LENGTH, 0);
    }
    let request = request.body(Empty::<Bytes>::new())?;
    let (head, body) = tokio::time::timeout(WITHIN, respond(wire, request))
        .await
        .with_context(|| format!("{method} {path}: no response within {WITHIN:?}"))?
        .with_context(|| format!("{method} {path}"))?;
    Ok(Answer {
        status: head.status.as_u16(),
        head: text(&head),
        body: body.to_vec(),
        secured,
        fields: head.headers,
    })
}

async fn respond(wire: Wire, request: Request<Empty<Bytes>>) -> anyhow::Result<(Parts, Bytes)> {
    let (mut sender, connection) = http1::handshake(TokioIo::new(wire.into_stream())).await?;
    let response = async move {
        let (head, body) = sender.send_request(request).await?.into_parts();
        let body = Limited::new(body, MAX_BODY).collect().await;
        anyhow::Ok((head, body.map_err(anyhow::Error::from_boxed)?.to_bytes()))
    };
    // The connection closes once the response is read and the sender is dropped. Later errors do not matter: some
    // servers close without close_notify.
    let (response, _) = tokio::join!(response, connection);
    response
}

fn text(head: &Parts) -> String {
    let mut text = format!("{:?} {}", head.version, head.status);
    for (name, value) in &head.headers {
        let value = String::from_utf8_lossy(value.as_bytes());
        text.push_str(&format!("\r\n{name}: {value}"));
    }
    text
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    use super::*;

    /// Serves one request with these bytes; returns the request and the client's result.
    async fn answered(method: &str, answer: &[u8]) -> (String, anyhow::Result<Answer>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                request.push(stream.read_u8().await.unwrap());
            }
            stream.write_all(answer).await.unwrap();
            String::from_utf8(request).unwrap()
        };
        let client = async {
            let wire = Wire::connect(address).await?;
            exchange(wire, "x.test", method, "/page?x=1", "de").await
        };
        tokio::join!(server, client)
    }

    #[tokio::test]
    async fn a_request_names_its_host_and_the_whole_response_is_read() {
        let (request, answer) = answered(
            "GET",
            b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n",
        )
        .await;
        let answer = answer.unwrap();
        assert!(request.starts_with("GET /page?x=1 HTTP/1.1\r\n"), "{request}");
        for field in ["host: x.test", "accept-language: de", "connection: close"] {
            assert!(request.contains(&format!("\r\n{field}\r\n")), "{request}");
        }
        assert_eq!((answer.status, answer.body.as_slice()), (404, &b"no"[..]));
        assert_eq!(answer.field("Server"), Some("nginx"));
        assert!(answer.head.starts_with("HTTP/1.1 404 Not Found\r\nserver: nginx"));
    }

    #[tokio::test]
    async fn a_post_says_that_it_has_no_body_and_the_end_of_the_connection_ends_the_response() {
        let (request, answer) = answered("POST", b"HTTP/1.1 200 OK\r\n\r\nall\r\n\r\nof it").await;
        assert!(request.contains("\r\ncontent-length: 0\r\n"), "{request}");
        assert_eq!(answer.unwrap().body, b"all\r\n\r\nof it");
    }

    #[tokio::test]
    async fn what_is_not_http_or_ends_too_early_is_an_error() {
        for broken in [
            &b"220 smtp ready\r\n"[..],
            b"HTTP/1.1 200 OK\r\n",
            b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nshor",
            b"",
        ] {
            let (_, answer) = answered("GET", broken).await;
            assert!(answer.is_err(), "{answer:?}");
        }
    }
}
