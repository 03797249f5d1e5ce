//! Delivery over HTTPS as other relays do it: `POST /mxdeliv`.

use super::Peer;
use super::http::{self, Answer};
use super::wire::Wire;

/// Header fields of an envelope; no sender is the null sender.
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

/// The head of a request with these fields, for a body of this many bytes.
pub fn head(peer: &Peer, fields: &str, length: usize) -> String {
    format!(
        "POST /mxdeliv HTTP/1.1\r\nhost: {}\r\n{fields}content-length: {length}\r\nconnection: close\r\n\r\n",
        peer.domain
    )
}

/// A connection to port 443.
pub async fn connect(peer: &Peer) -> anyhow::Result<Wire> {
    Ok(Wire::connect_tls(peer.port(443), &peer.tls, &peer.domain).await?)
}

/// Delivers a message with these header fields.
pub async fn post(peer: &Peer, fields: &str, message: &[u8]) -> anyhow::Result<Answer> {
    let request = [head(peer, fields, message.len()).as_bytes(), message].concat();
    http::send(connect(peer).await?, &request).await
}

/// Status and text of an answer.
pub fn said(answer: &Answer) -> (u16, String) {
    (answer.status, String::from_utf8_lossy(&answer.body).into_owned())
}
