//! The opening handshake (RFC 6455 section 4).

use std::net::IpAddr;

use chatmail_core::settings::WebSocket;
use tungstenite::handshake::machine::TryParse as _;
use tungstenite::handshake::server::{Request, create_response, write_response};
use tungstenite::http::{HeaderValue, StatusCode, header};

/// Subprotocol that clients of websockify ask for; browsers close the connection if it is not confirmed.
const SUBPROTOCOL: &str = "binary";

/// What a session speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Protocol {
    Imap,
    Smtp,
}

impl Protocol {
    pub(crate) const ALL: [Self; 2] = [Self::Imap, Self::Smtp];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Imap => "imap",
            Self::Smtp => "smtp",
        }
    }
}

/// A request that is granted.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Granted {
    pub(crate) protocol: Protocol,
    /// The address of the client, from nginx.
    pub(crate) origin: IpAddr,
    pub(crate) response: Vec<u8>,
}

/// Parses the head of a request; `None` if it is not complete. Also returns its length.
pub(crate) fn parse(bytes: &[u8]) -> Result<Option<(usize, Request)>, StatusCode> {
    Request::try_parse(bytes).map_err(|_| StatusCode::BAD_REQUEST)
}

/// Decides about a request.
pub(crate) fn decide(request: &Request, settings: &WebSocket) -> Result<Granted, StatusCode> {
    let protocol = Protocol::ALL
        .into_iter()
        .find(|protocol| request.uri().path().strip_prefix('/') == Some(protocol.name()))
        .ok_or(StatusCode::NOT_FOUND)?;
    let mut response = create_response(request).map_err(|_| StatusCode::UPGRADE_REQUIRED)?;
    // Browsers name the page that opens the WebSocket. Other clients send no Origin.
    for origin in request.headers().get_all(header::ORIGIN) {
        if !settings
            .origins
            .iter()
            .any(|allowed| allowed.as_bytes() == origin.as_bytes())
        {
            return Err(StatusCode::FORBIDDEN);
        }
    }
    let offered = request.headers().get_all(header::SEC_WEBSOCKET_PROTOCOL);
    let offered = offered.iter().filter_map(|value| value.to_str().ok());
    if offered
        .flat_map(|value| value.split(','))
        .any(|name| name.trim() == SUBPROTOCOL)
    {
        let confirmed = HeaderValue::from_static(SUBPROTOCOL);
        response
            .headers_mut()
            .insert(header::SEC_WEBSOCKET_PROTOCOL, confirmed);
    }
    let mut bytes = Vec::new();
    write_response(&mut bytes, &response).map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    let origin = request.headers().get("x-real-ip");
    let origin = origin.and_then(|value| value.to_str().ok()?.parse().ok());
    Ok(Granted {
        protocol,
        // Only nginx can connect, and it always sends the address.
        origin: origin.ok_or(StatusCode::INTERNAL_SERVER_ERROR)?,
        response: bytes,
    })
}

/// The response to a request that is not granted.
pub(crate) fn refusal(status: StatusCode) -> String {
    let reason = status.canonical_reason().unwrap_or_default();
    let upgrade = if status == StatusCode::UPGRADE_REQUIRED {
        "Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\n"
    } else {
        ""
    };
    format!(
        "HTTP/1.1 {} {reason}\r\n{upgrade}Connection: close\r\nContent-Type: text/plain\r\n\
         Content-Length: {}\r\n\r\n{reason}\n",
        status.as_u16(),
        reason.len() + 1,
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    const ADDRESS: &str = "X-Real-IP: 192.0.2.7\r\n";

    fn settings() -> WebSocket {
        WebSocket {
            socket: "/run/x".into(),
            imap: "127.0.0.1:1".parse().unwrap(),
            smtp: "unix:/run/y".parse().unwrap(),
            origins: vec!["https://chat.example.org".to_owned()],
            max_connections: 1,
        }
    }

    fn ask(path: &str, fields: &str) -> Result<Granted, StatusCode> {
        let head = format!(
            "GET {path} HTTP/1.1\r\nHost: chat.example.org\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\n{fields}\r\n"
        );
        let (length, request) = parse(head.as_bytes())?.unwrap();
        assert_eq!(length, head.len());
        decide(&request, &settings())
    }

    #[test]
    fn requests_are_granted_to_clients_without_an_origin_and_to_known_pages() {
        let fields = format!("{KEY}{ADDRESS}");
        let granted = ask("/imap", &fields).unwrap();
        assert_eq!(granted.protocol, Protocol::Imap);
        assert_eq!(granted.origin.to_string(), "192.0.2.7");
        let response = String::from_utf8(granted.response).unwrap();
        assert!(response.starts_with("HTTP/1.1 101 "), "{response}");
        assert!(
            response
                .to_lowercase()
                .contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"),
            "{response}"
        );
        assert!(!response.to_lowercase().contains("sec-websocket-protocol"));
        assert_eq!(ask("/smtp", &fields).unwrap().protocol, Protocol::Smtp);
        let own = format!("{fields}Origin: https://chat.example.org\r\n");
        ask("/smtp", &own).unwrap();
        for other in [
            "https://evil.example",
            "http://chat.example.org",
            "null",
            "https://chat.example.org.evil.example",
        ] {
            let fields = format!("{fields}Origin: {other}\r\n");
            assert_eq!(ask("/smtp", &fields), Err(StatusCode::FORBIDDEN), "{other}");
        }
        let both = format!("{own}Origin: https://evil.example\r\n");
        assert_eq!(ask("/smtp", &both), Err(StatusCode::FORBIDDEN));
    }

    #[test]
    fn the_subprotocol_of_websockify_is_confirmed() {
        let fields = format!("{KEY}{ADDRESS}Sec-WebSocket-Protocol: base64, binary\r\n");
        let response = String::from_utf8(ask("/imap", &fields).unwrap().response).unwrap();
        assert!(
            response
                .to_lowercase()
                .contains("sec-websocket-protocol: binary\r\n"),
            "{response}"
        );
    }

    #[test]
    fn other_requests_are_refused() {
        let fields = format!("{KEY}{ADDRESS}");
        assert_eq!(ask("/pop", &fields), Err(StatusCode::NOT_FOUND));
        assert_eq!(ask("/imap/", &fields), Err(StatusCode::NOT_FOUND));
        assert_eq!(ask("/imap", ADDRESS), Err(StatusCode::UPGRADE_REQUIRED));
        assert_eq!(ask("/imap", KEY), Err(StatusCode::INTERNAL_SERVER_ERROR));
        let many = "X: y\r\n".repeat(200);
        assert_eq!(ask("/imap", &many), Err(StatusCode::BAD_REQUEST));
        assert_eq!(
            parse(b"GET /imap HTTP/1.1\r\n")
                .unwrap()
                .map(|(length, _)| length),
            None
        );
        assert!(parse(b"\x16\x03\x01").is_err());
    }
}
