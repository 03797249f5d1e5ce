//! Accepts only end-to-end encrypted mail.
//!
//! Postfix hands each message to one of two filters before it queues it. The filter delivers accepted messages to
//! mailboxes of this relay, and returns all others to Postfix on another socket. `check` decides by the bytes of a
//! message, `dkim` by its signatures, `smtp` moves bytes, and `reply` contains every SMTP reply. `mxdeliv` accepts mail
//! over HTTPS and passes it to Postfix, which treats it like all arriving mail. `transport` delivers over HTTPS what
//! Postfix passes to it.

pub mod check;
mod deliveries;
pub mod dkim;
pub mod dns;
pub mod metrics;
pub mod milter;
pub mod mxdeliv;
pub mod policy;
pub mod rate;
pub mod reply;
pub mod smtp;
pub mod transport;

use std::num::NonZeroU32;
use std::sync::Arc;

use anyhow::Context as _;
use chatmail_core::MailStore;
use chatmail_core::federation::Rules;
use daemon::{Listener, Service};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixListener;

use crate::check::Direction;
use crate::deliveries::Deliveries;
use crate::milter::Gate;
use crate::smtp::{IDLE_TIMEOUT, Large, Mailboxes, Policy, Server, Target, serve_connection};

/// Name of the socket on which Postfix asks whether an address may send (`FileDescriptorName=`).
const LIMIT_SOCKET: &str = "limit";
/// Name of the socket on which Postfix asks whether a server may send.
const RULES_SOCKET: &str = "rules";

/// Name of the socket to which Postfix logs deliveries to other servers.
const DELIVERIES_SOCKET: &str = "deliveries";

/// Runs the filter for submitted mail.
pub async fn run_outgoing(mut service: Service) -> anyhow::Result<()> {
    let settings = Arc::clone(&service.settings);
    let filter = &settings.filtermail;
    let limit = rate::SendLimit::new(
        NonZeroU32::new(settings.messages.max_per_minute).context("messages.max_per_minute is 0")?,
        NonZeroU32::new(settings.messages.burst).context("messages.burst is 0")?,
    );
    let asked = service.named_unix_listener(LIMIT_SOCKET, &filter.limit_socket)?;
    let listener = service.listener(&filter.outgoing_listen)?;
    let records = service.named_unix_datagram(DELIVERIES_SOCKET, &filter.deliveries_socket)?;
    let deliveries = Deliveries::load(&filter.destinations_file);
    let results = settings.federation.https.send;
    let results = results.then_some(&*settings.transport.results_socket);
    let shown = deliveries.clone();
    service.serve_metrics_with(
        |addresses| addresses.filtermail_outgoing,
        || metrics::describe(Direction::Outgoing),
        move || shown.metrics(),
    )?;
    let server = Arc::new(Server {
        policy: policy::Outgoing::new(limit, Rules::new(&settings), filter.large),
        reinject: Some(Arc::new(
            Target::new(filter.outgoing_reinject.clone())
                .with_mailboxes(Mailboxes::new(&settings, Direction::Outgoing)),
        )),
        max_message_size: settings.messages.max_size,
        max_recipients: settings.messages.max_recipients,
        large: Large::new(filter.large, IDLE_TIMEOUT),
        // Postfix passes on what its client declares.
        trusts_sizes: false,
        shutdown: service.shutdown.clone(),
    });
    // All end with the service.
    tokio::join!(
        run(&service, listener, &server),
        answer(&service, Some(asked), &server),
        deliveries.run(records, &filter.destinations_file, results, &service.shutdown)
    );
    Ok(())
}

/// Runs the filter for arriving mail.
pub async fn run_incoming(mut service: Service) -> anyhow::Result<()> {
    let settings = Arc::clone(&service.settings);
    let filter = &settings.filtermail;
    let asked = filter.rules_socket.as_deref();
    let asked = asked
        .map(|path| service.named_unix_listener(RULES_SOCKET, path))
        .transpose()?;
    let verifier = dkim::Verifier::new(filter.resolver, settings.connections.filter)?;
    let listener = service.listener(&filter.incoming_listen)?;
    service.serve_metrics(
        |addresses| addresses.filtermail_incoming,
        || metrics::describe(Direction::Incoming),
    )?;
    let server = Arc::new(Server {
        policy: policy::Incoming::new(
            MailStore::new(&settings.mailboxes.directory),
            settings.domain.clone(),
            verifier,
            Rules::new(&settings),
            filter.large,
        ),
        reinject: Some(Arc::new(
            Target::new(filter.incoming_reinject.clone())
                .with_mailboxes(Mailboxes::new(&settings, Direction::Incoming)),
        )),
        max_message_size: settings.messages.max_size,
        max_recipients: settings.messages.max_recipients,
        large: Large::new(filter.large, IDLE_TIMEOUT),
        // Postfix passes on what its client declares.
        trusts_sizes: false,
        shutdown: service.shutdown.clone(),
    });
    tokio::join!(run(&service, listener, &server), answer(&service, asked, &server));
    Ok(())
}

/// Answers Postfix's questions about envelopes, if it asks any.
async fn answer<P>(service: &Service, listener: Option<UnixListener>, server: &Arc<Server<P>>)
where
    P: Policy + Gate + Send + 'static,
{
    let Some(listener) = listener else { return };
    daemon::serve(
        service,
        listener,
        service.settings.filtermail.max_sessions,
        |stream| {
            let server = Arc::clone(server);
            async move { milter::serve_connection(&server.policy, stream).await }
        },
    )
    .await;
}

async fn run<L, P>(service: &Service, listener: L, server: &Arc<Server<P>>)
where
    L: Listener<Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static>,
    P: Policy + Send + 'static,
{
    tracing::info!("entering serving loop");
    service.ready("filtering");
    daemon::serve(service, listener, service.settings.connections.filter, |stream| {
        let server = Arc::clone(server);
        async move { serve_connection(&server, stream).await }
    })
    .await;
}
