//! Generates addresses and passwords for new users, over HTTP behind nginx.
//!
//! A response is only a suggestion: the first login creates the account, and doveauth checks the rules then, among them
//! the invitation. The service therefore stores nothing, and a lost response does no harm. It checks the registration
//! too, because only its responses can tell people why they get no account.

mod account;
mod metrics;
mod refusal;
mod web;

use std::process::ExitCode;

/// Maximum number of connections. nginx opens one for each request; the rate limit is reached long before.
const MAX_CONNECTIONS: usize = 256;

const ABOUT: &str = "Answers `POST /new` with an address and a password for a new user";

fn main() -> ExitCode {
    daemon::main(&daemon::Cli::parse("newemail", ABOUT), async |mut service| {
        let socket = service.settings.newemail.socket.clone();
        let listener = service.unix_listener(&socket)?;
        service.serve_metrics(|addresses| addresses.newemail, metrics::describe)?;
        let router = web::router(&service.settings)?;
        service.ready(&format!("listening on {}", socket.display()));
        daemon::serve_http(&service, listener, MAX_CONNECTIONS, router).await;
        Ok(())
    })
}
