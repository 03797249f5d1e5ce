//! Delivery over HTTPS, as from other relays: `POST /mxdeliv`.
//!
//! This module writes requests itself instead of using hyper: scenarios send requests that no HTTP client sends, such
//! as two lengths for one body, and bodies that arrive slowly or never.

use anyhow::Context as _;

use super::Peer;
use super::wire::Wire;

/// Maximum size of a response.
const MAX_RESPONSE: u64 = 64 * 1024;

/// Status and body of a response.
pub type Said = (u16, String);

/// Returns the header fields of an envelope; an empty sender is the null sender.
pub fn envelope(from: &str, to: &[&str]) -> String {
    let mut fields = String::new();
    if !from.is_empty() {
        fields.push_str(&format!("X-MAIL-FROM: {from}\r\n"));
    }
    for to in to {
        fields.push_str(&format!("X-MAIL-TO: {to}\r\n"));
    }
    fields
}

/// Returns the head of a request with these fields, for a body of this length.
pub fn head(peer: &Peer, fields: &str, length: usize) -> String {
    format!(
        "POST /mxdeliv HTTP/1.1\r\nhost: {}\r\n{fields}content-length: {length}\r\nconnection: close\r\n\r\n",
        peer.domain
    )
}

/// Connects to port 443.
pub async fn connect(peer: &Peer) -> anyhow::Result<Wire> {
    Ok(Wire::connect_tls(peer.port(443), &peer.tls, &peer.domain).await?)
}

/// Delivers a message with these header fields.
pub async fn post(peer: &Peer, fields: &str, message: &[u8]) -> anyhow::Result<Said> {
    let request = [head(peer, fields, message.len()).as_bytes(), message].concat();
    send(connect(peer).await?, &request).await
}

/// Writes a request unchanged, and returns the response once the server has closed the connection.
pub async fn send(mut wire: Wire, request: &[u8]) -> anyhow::Result<Said> {
    wire.write(request).await?;
    said(wire).await
}

/// Reads the response until the server closes the connection.
pub async fn said(mut wire: Wire) -> anyhow::Result<Said> {
    let response = wire.read_to_end(MAX_RESPONSE).await?;
    split(&response).context("not an HTTP response")
}

fn split(response: &[u8]) -> Option<Said> {
    let text = String::from_utf8_lossy(response);
    let (head, body) = text.split_once("\r\n\r\n")?;
    let status = head.strip_prefix("HTTP/1.1 ")?.get(..3)?.parse().ok()?;
    Some((status, body.to_owned()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_split() {
        let response = b"HTTP/1.1 404 Not Found\r\nServer: nginx\r\n\r\nno\r\n\r\n";
        assert_eq!(split(response), Some((404, "no\r\n\r\n".to_owned())));
        assert_eq!(split(b"220 smtp ready\r\n\r\n"), None);
        assert_eq!(split(b"HTTP/1.1 200 OK\r\n"), None);
    }
}
