//! Addresses and passwords for new users, over HTTP behind nginx.
//!
//! An answer is only a suggestion: the account comes into being when somebody logs in with it, under the rules that
//! doveauth checks then. So nothing is stored here, and an answer that is lost costs nothing.

mod account;
mod metrics;
mod web;

use std::process::ExitCode;

/// Connections served at once. nginx opens one for each request; the rate limit is reached long before this.
const MAX_CONNECTIONS: usize = 256;

const ABOUT: &str = "Answers `POST /new` with an address and a password for a new user";

fn main() -> ExitCode {
    daemon::main(&daemon::Cli::parse("newemail", ABOUT), async |mut service| {
        let socket = service.settings.newemail.socket.clone();
        let listener = service.unix_listener(&socket)?;
        service.serve_metrics(|addresses| addresses.newemail, metrics::describe)?;
        let router = web::router(&service.settings)?;
        service.ready(&format!("answering on {}", socket.display()));
        daemon::serve_http(&service, listener, MAX_CONNECTIONS, router).await;
        Ok(())
    })
}
