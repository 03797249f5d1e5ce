//! Verifies logins for Dovecot and Postfix, and creates accounts at their first login.

use std::process::ExitCode;
use std::sync::Arc;

use daemon::Service;
use doveauth::login::Logins;
use doveauth::{http, sasl};

/// Dovecot's auth workers have one connection each; this is well above their number.
const MAX_CONNECTIONS: usize = 512;

const ABOUT: &str = "Verifies logins for Dovecot and Postfix, and creates accounts at their first login";

fn main() -> ExitCode {
    daemon::main(&daemon::Cli::parse("doveauth", ABOUT), run)
}

async fn run(mut service: Service) -> anyhow::Result<()> {
    let socket = service.settings.doveauth.socket.clone();
    let sasl = service.settings.doveauth.sasl.clone();
    let submission = service.named_unix_listener(sasl::SOCKET, &sasl.socket)?;
    let listener = service.unix_listener(&socket)?;
    service.serve_metrics(|addresses| addresses.doveauth, doveauth::metrics::describe_logins)?;
    let logins = Arc::new(Logins::new(Arc::clone(&service.settings)));
    if let Err(error) = logins.recover().await {
        // The next use of each invitation settles it too.
        tracing::error!("cannot read the invitations: {error}");
    }
    let router = http::router(Arc::clone(&logins));
    service.ready("verifying logins");
    let shutdown = service.shutdown.clone();
    let submission = daemon::serve(&service, submission, sasl.max_connections, |stream| {
        let (logins, shutdown) = (Arc::clone(&logins), shutdown.clone());
        async move {
            if let Err(error) = sasl::serve(stream, &logins, &shutdown).await {
                tracing::warn!("{error}");
            }
        }
    });
    tokio::join!(
        submission,
        daemon::serve_http(&service, listener, MAX_CONNECTIONS, router)
    );
    Ok(())
}
