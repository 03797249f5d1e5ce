//! Serves IMAP METADATA to Dovecot, stores device tokens, and sends push notifications.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use chatmail_core::MailStore;
use chatmail_metadata::Clock;
use chatmail_metadata::announce::Announcements;
use chatmail_metadata::delivered;
use chatmail_metadata::entries::Limits;
use chatmail_metadata::push::http::{NotificationServer, REQUEST_TIMEOUT};
use chatmail_metadata::push::{LIMITS, Notifier};
use chatmail_metadata::service::MetadataDict;
use chatmail_metadata::tokens::MetadataStore;
use daemon::Service;

/// Dovecot opens a connection for each request of a client, and closes it after the reply. Postfix opens one in each
/// process that delivers.
const MAX_CONNECTIONS: usize = 1024;

const ABOUT: &str = "Serves IMAP METADATA and sends push notifications";

fn main() -> ExitCode {
    daemon::main(&daemon::Cli::parse("chatmail-metadata", ABOUT), run)
}

async fn run(mut service: Service) -> anyhow::Result<()> {
    let settings = Arc::clone(&service.settings);
    let reports = service.named_unix_listener(delivered::SOCKET, &settings.metadata.delivered_socket)?;
    let listener = service.unix_listener(&settings.metadata.socket)?;
    service.serve_metrics(
        |addresses| addresses.metadata,
        chatmail_metadata::metrics::describe,
    )?;
    let url = settings
        .push
        .notification_url
        .parse()
        .context("cannot parse push.notification_url")?;
    let server = NotificationServer::new(url, REQUEST_TIMEOUT)
        .context("cannot set up the client for the notification server")?;
    let tokens = Arc::new(MetadataStore::new(MailStore::new(&settings.mailboxes.directory)));
    let queue_dir = &settings.push.queue_dir;
    let notifier = Notifier::open(queue_dir, Arc::clone(&tokens), server, LIMITS, Clock::system())
        .with_context(|| format!("cannot open the push queue {}", queue_dir.display()))?;
    let push = notifier.handle();
    let announcements = Announcements::new(Arc::clone(&settings));
    let limits = Limits {
        entries: settings.metadata.max_entries,
        bytes: settings.metadata.max_entry_bytes,
    };
    let dict = MetadataDict::new(announcements, tokens, limits, Clock::system());
    service.ready("serving METADATA and push notifications");

    let shutdown = service.shutdown.clone();
    let serving = daemon::serve(&service, listener, MAX_CONNECTIONS, |stream| {
        let (dict, shutdown) = (dict.clone(), shutdown.clone());
        async move {
            if let Err(error) =
                dovecot_dict::serve(stream, &dict, &dovecot_dict::Limits::default(), &shutdown).await
            {
                tracing::warn!("{error}");
            }
        }
    });
    let reporting = daemon::serve(&service, reports, MAX_CONNECTIONS, |stream| {
        let (push, shutdown) = (push.clone(), shutdown.clone());
        async move { delivered::serve(stream, &push, &shutdown).await }
    });
    tokio::join!(serving, reporting, notifier.run(&shutdown));
    tokio::task::spawn_blocking(move || push.close())
        .await
        .context("cannot close the push queue")
}
