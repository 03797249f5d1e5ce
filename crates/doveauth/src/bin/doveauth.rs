//! Verifies logins for Dovecot, and creates accounts at their first login.

use std::process::ExitCode;
use std::sync::Arc;

use daemon::Service;
use doveauth::http;
use doveauth::login::Logins;

/// Dovecot's auth workers have one connection each; this is well above their number.
const MAX_CONNECTIONS: usize = 512;

const ABOUT: &str = "Verifies logins for Dovecot, and creates accounts at their first login";

fn main() -> ExitCode {
    daemon::main(&daemon::Cli::parse("doveauth", ABOUT), run)
}

async fn run(mut service: Service) -> anyhow::Result<()> {
    let socket = service.settings.doveauth.socket.clone();
    let listener = service.unix_listener(&socket)?;
    service.serve_metrics(|addresses| addresses.doveauth, doveauth::metrics::describe_logins)?;
    let logins = Arc::new(Logins::new(Arc::clone(&service.settings)));
    if let Err(error) = logins.recover().await {
        // The next use of each invitation settles it too.
        tracing::error!("cannot read the invitations: {error}");
    }
    let router = http::router(logins);
    service.ready("verifying logins");
    daemon::serve_http(&service, listener, MAX_CONNECTIONS, router).await;
    Ok(())
}
