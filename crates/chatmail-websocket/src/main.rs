//! IMAP and submission over WebSocket (RFC 6455), behind nginx, for clients where only HTTPS passes.
//!
//! The payloads of binary messages, put together, are an ordinary session: the service passes bytes on and understands
//! neither protocol. It tells Dovecot and Postfix the address of the client, so the limits of the mail ports apply.

mod frames;
mod handshake;
mod metrics;
mod proxy;
mod session;

use std::process::ExitCode;
use std::sync::Arc;

use session::Door;

const ABOUT: &str = "Passes IMAP and submission over WebSocket on to Dovecot and Postfix";

fn main() -> ExitCode {
    daemon::main(
        &daemon::Cli::parse("chatmail-websocket", ABOUT),
        async |mut service| {
            let settings = service.settings.websocket.clone();
            let listener = service.unix_listener(&settings.socket)?;
            service.serve_metrics(|addresses| addresses.websocket, metrics::describe)?;
            service.ready(&format!("listening on {}", settings.socket.display()));
            let max_connections = settings.max_connections;
            let door = Arc::new(Door { settings });
            let shutdown = service.shutdown.clone();
            daemon::serve(&service, listener, max_connections, |stream| {
                session::connection(Arc::clone(&door), stream, shutdown.clone())
            })
            .await;
            Ok(())
        },
    )
}
