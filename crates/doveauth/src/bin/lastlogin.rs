//! Stores the day of the last login of each account.

use std::process::ExitCode;

use chatmail_core::account::MailStore;
use daemon::Service;
use doveauth::lastlogin::LastLogins;
use dovecot_dict::Limits;

/// Dovecot opens a connection for each login and closes it after the reply.
const MAX_CONNECTIONS: usize = 512;

const ABOUT: &str = "Stores the day of the last login of each account";

fn main() -> ExitCode {
    daemon::main(&daemon::Cli::parse("lastlogin", ABOUT), run)
}

async fn run(mut service: Service) -> anyhow::Result<()> {
    let socket = service.settings.lastlogin.socket.clone();
    let listener = service.unix_listener(&socket)?;
    service.serve_metrics(
        |addresses| addresses.lastlogin,
        doveauth::metrics::describe_last_logins,
    )?;
    let dict = LastLogins::new(MailStore::new(&service.settings.mailboxes.directory));
    service.ready("storing the days of logins");
    daemon::serve(&service, listener, MAX_CONNECTIONS, |stream| {
        let (dict, shutdown) = (dict.clone(), service.shutdown.clone());
        async move {
            if let Err(error) = dovecot_dict::serve(stream, &dict, &Limits::default(), &shutdown).await {
                tracing::warn!("{error}");
            }
        }
    })
    .await;
    Ok(())
}
