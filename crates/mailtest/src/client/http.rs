//! One HTTPS request on a connection whose ALPN name the caller chooses.

use std::net::SocketAddr;

use anyhow::Context as _;

use super::tls::Tls;
use super::wire::{Secured, Wire};

/// Longest answer that is read.
const MAX_ANSWER: u64 = 4 * 1024 * 1024;

/// An answer to a request.
#[derive(Debug)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Status line and header fields.
    pub head: String,
    /// Everything after the empty line.
    pub body: Vec<u8>,
    /// What TLS agreed on.
    pub secured: Option<Secured>,
}

impl Answer {
    /// Value of the first header field with this name; case does not matter.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.head.lines().skip(1).find_map(|line| {
            let (found, value) = line.split_once(':')?;
            found.eq_ignore_ascii_case(name).then(|| value.trim())
        })
    }
}

/// Asks `https://NAME/PATH` at this address; the server closes the connection after its answer.
pub async fn request(
    address: SocketAddr,
    tls: &Tls,
    name: &str,
    method: &str,
    path: &str,
) -> anyhow::Result<Answer> {
    request_in(address, tls, name, method, path, "en").await
}

/// As [`request`], by somebody who prefers these languages (RFC 9110 section 12.5.4).
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

/// The protocol that the server chooses by ALPN.
pub async fn agreed(address: SocketAddr, tls: &Tls, name: &str) -> anyhow::Result<Option<String>> {
    let wire = Wire::connect_tls(address, tls, name).await?;
    Ok(wire.secured().and_then(|secured| secured.alpn.clone()))
}

/// GET without TLS.
pub async fn get_plain(address: SocketAddr, name: &str, path: &str) -> anyhow::Result<Answer> {
    exchange(Wire::connect(address).await?, name, "GET", path, "en").await
}

/// Writes a request as it is; what the server then says until it closes the connection.
pub async fn send(mut wire: Wire, request: &[u8]) -> anyhow::Result<Answer> {
    wire.write(request).await?;
    answer(wire).await
}

/// What the server says until it closes the connection.
pub async fn answer(mut wire: Wire) -> anyhow::Result<Answer> {
    let secured = wire.secured().cloned();
    let answer = wire.read_to_end(MAX_ANSWER).await?;
    let (status, head, body) = split(&answer).context("not an HTTP answer")?;
    Ok(Answer {
        status,
        head: head.to_owned(),
        body: body.to_vec(),
        secured,
    })
}

async fn exchange(
    wire: Wire,
    name: &str,
    method: &str,
    path: &str,
    languages: &str,
) -> anyhow::Result<Answer> {
    let length = if method == "POST" {
        "content-length: 0\r\n"
    } else {
        ""
    };
    let request = format!(
        "{method} {path} HTTP/1.1\r\nhost: {name}\r\naccept-language: {languages}\r\n{length}connection: close\r\n\r\n"
    );
    send(wire, request.as_bytes()).await
}

fn split(answer: &[u8]) -> Option<(u16, &str, &[u8])> {
    let end = answer.windows(4).position(|window| window == b"\r\n\r\n")?;
    let (head, body) = answer.split_at_checked(end)?;
    let head = std::str::from_utf8(head).ok()?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, head, body.get(4..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_split() {
        let (status, head, body) =
            split(b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\n\r\nno\r\n\r\n").unwrap();
        assert_eq!((status, body), (404, &b"no\r\n\r\n"[..]));
        assert_eq!(head, "HTTP/1.1 404 Not Found\r\nServer: nginx");
        assert_eq!(split(b"220 smtp ready\r\n\r\n"), None);
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
