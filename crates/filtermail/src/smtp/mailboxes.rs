//! Delivers accepted messages to mailboxes of this relay over LMTP (RFC 2033), before the reply to the client.
//!
//! A message that never enters Postfix's queue costs half the CPU time, and a client that sends faster than Dovecot
//! stores waits for its replies, so no queue grows. Everything else is left to Postfix: recipients elsewhere, aliases,
//! unknown and full mailboxes, failures, and retries.

use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use chatmail_core::{Address, Endpoint, Settings};
use daemon::socketmap;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::connection::{Connection, Outcome, Protocol};
use super::data::Stuffing;
use super::envelope::{Envelope, Path};
use crate::check::Direction;
use crate::check::header::Cleanup;
use crate::metrics;
use crate::reply::Reply;

/// Most recipients that one message is delivered to before its client gets a reply; Dovecot stores one after the other.
const MAX_RECIPIENTS: usize = 100;
/// Longest wait for Dovecot to store a message for all recipients. Postfix and clients wait a little longer.
const STORE_TIMEOUT: Duration = Duration::from_secs(30);
/// Longest wait for the report of a delivery.
const REPORT_TIMEOUT: Duration = Duration::from_secs(2);
/// Table of the reports, which have the form of Postfix's (`lmtp_delivery_status_filter`).
const TABLE: &str = "delivered";
/// Status of a successful delivery (RFC 3463).
const DELIVERED: &str = "2.0.0";
/// How long a connection stays open for the next message.
const IDLE: Duration = Duration::from_secs(5);

/// Connections to Dovecot, shared by all sessions.
pub struct Mailboxes {
    address: Endpoint,
    domain: String,
    direction: Direction,
    cleanup: Cleanup,
    /// Where deliveries are reported, for push notifications.
    reports: socketmap::Client,
    /// Permits for connections. Without a free one, messages go through the queue.
    connections: Semaphore,
    idle: Mutex<Vec<(Connection, Instant)>>,
}

impl Mailboxes {
    /// Delivers mail for users of the relay; none if all of it goes through Postfix's queue.
    pub fn new(settings: &Settings, direction: Direction) -> Option<Self> {
        let direct = settings.filtermail.direct_delivery.as_ref()?;
        Some(Self {
            address: direct.lmtp.clone(),
            domain: settings.domain.to_ascii_lowercase(),
            reports: socketmap::Client::new(direct.reports_socket.clone()),
            direction,
            cleanup: Cleanup::new(direct, direction),
            connections: Semaphore::new(direct.max_connections),
            idle: Mutex::default(),
        })
    }

    /// Splits recipients into those that are delivered to here, and those that Postfix decides on. Postfix accepts more
    /// spellings of an address than the plain one, and more recipients.
    pub fn split(&self, recipients: &[Path]) -> (Vec<Path>, Vec<Path>) {
        let (own, others): (Vec<Path>, Vec<Path>) = recipients
            .iter()
            .cloned()
            .partition(|recipient| self.is_own(recipient));
        match own.len() {
            0..=MAX_RECIPIENTS => (own, others),
            _ => (Vec::new(), recipients.to_vec()),
        }
    }

    /// Counts recipients of an accepted message: those whose mailboxes have it, and those that Postfix delivers to.
    pub fn count(&self, stored: usize, queued: usize) {
        metrics::passed_on(self.direction, stored, queued);
    }

    fn is_own(&self, recipient: &Path) -> bool {
        let sound = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b'+');
        let Some((localpart, domain)) = recipient.address.rsplit_once('@') else {
            return false;
        };
        domain.eq_ignore_ascii_case(&self.domain)
            && localpart.bytes().all(sound)
            && localpart.starts_with(|c: char| c != '+')
            && recipient.parameters.is_empty()
    }

    /// Delivers a message to recipients from [`Self::split`], and returns those that still have to get it from Postfix.
    ///
    /// A recipient without a reply is returned too: Dovecot may have stored the message, and twice is better than never.
    pub async fn deliver(
        self: &Arc<Self>,
        sender: &Path,
        recipients: Vec<Path>,
        message: &[u8],
    ) -> Undelivered {
        if recipients.is_empty() {
            return Undelivered::default();
        }
        let stored = self.store(sender, &recipients, message).await;
        let sender = sender.address.to_ascii_lowercase();
        let is_sender = |recipient: &str| {
            Address::of_recipient(recipient).is_ok_and(|account| account.as_str() == sender)
        };
        // Users get no notification of messages that they send to themselves, for their other devices.
        let reports = stored
            .iter()
            .filter(|(recipient, _)| !is_sender(recipient))
            .map(|(_, reply)| format!("{DELIVERED} {reply}"))
            .collect();
        let mut rest = recipients;
        rest.retain(|recipient| !stored.contains_key(&recipient.address.to_ascii_lowercase()));
        Undelivered { rest, reports }
    }

    /// Reports deliveries, so that devices are notified. The service that takes the reports stores them within
    /// milliseconds; the session waits no longer than [`REPORT_TIMEOUT`] for that.
    pub async fn report(&self, reports: &[String]) {
        if reports.is_empty() {
            return;
        }
        let told = timeout(REPORT_TIMEOUT, self.reports.tell(TABLE, reports)).await;
        if let Err(error) = told.map_err(io::Error::from).flatten() {
            tracing::warn!("cannot report a delivery, so its devices get no notification: {error}");
        }
    }

    /// Delivers a message and returns Dovecot's replies for the recipients that have it, by their addresses in lower
    /// case.
    async fn store(
        self: &Arc<Self>,
        sender: &Path,
        recipients: &[Path],
        message: &[u8],
    ) -> HashMap<String, Reply> {
        let mut stored = HashMap::new();
        let Some((head, body)) = self.cleanup.apply(message) else {
            return stored;
        };
        let Ok(_permit) = self.connections.try_acquire() else {
            return stored;
        };
        let mut addresses: Vec<String> = recipients
            .iter()
            .map(|recipient| recipient.address.to_ascii_lowercase())
            .collect();
        addresses.sort_unstable();
        addresses.dedup();
        let envelope = Envelope {
            sender: Path::plain(sender.address.clone()),
            recipients: addresses.iter().cloned().map(Path::plain).collect(),
            origin: None,
        };
        let mut connection = match self.begin(&envelope).await {
            Ok(Some(connection)) => connection,
            Ok(None) => return stored,
            Err(error) => {
                tracing::warn!("cannot deliver to Dovecot at {}: {error}", self.address);
                return stored;
            }
        };
        match send(&mut connection, addresses, [&head, body], &mut stored).await {
            Ok(()) => self.keep(connection),
            Err(error) => tracing::warn!("Dovecot at {} did not confirm a delivery: {error}", self.address),
        }
        stored
    }

    /// A connection on which Dovecot waits for the message; none if it rejects a recipient.
    async fn begin(self: &Arc<Self>, envelope: &Envelope) -> io::Result<Option<Connection>> {
        while let Some(mut connection) = self.idle_connection() {
            match connection.envelope(envelope).await {
                Ok(outcome) => return Ok(self.unless_refused(connection, outcome)),
                // The others would take as long, and Postfix waits for the reply.
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Err(error),
                // Dovecot closes idle connections, too; then the next one is tried.
                Err(_) => {}
            }
        }
        let mut connection = Connection::connect(&self.address, Protocol::Lmtp).await?;
        let outcome = connection.envelope(envelope).await?;
        Ok(self.unless_refused(connection, outcome))
    }

    fn unless_refused(
        self: &Arc<Self>,
        connection: Connection,
        refused: Option<Outcome>,
    ) -> Option<Connection> {
        let Some(outcome) = refused else {
            return Some(connection);
        };
        if outcome.reusable {
            self.keep(connection);
        }
        None
    }

    /// The connection that was used last, so that the others become idle and close.
    fn idle_connection(&self) -> Option<Connection> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        idle.pop().map(|(connection, _)| connection)
    }

    /// Keeps a connection for the next message.
    fn keep(self: &Arc<Self>, connection: Connection) {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.is_empty() {
            tokio::spawn(Arc::clone(self).close_idle());
        }
        idle.push((connection, Instant::now()));
    }

    /// Closes connections that nobody needs any more, until none is left.
    async fn close_idle(self: Arc<Self>) {
        loop {
            tokio::time::sleep(IDLE).await;
            let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
            idle.retain(|(_, since)| since.elapsed() < IDLE);
            if idle.is_empty() {
                return;
            }
        }
    }
}

/// The recipients that still have to get a message, and the reports about the others.
#[derive(Default)]
pub struct Undelivered {
    /// Recipients that Postfix has to deliver to.
    pub rest: Vec<Path>,
    /// For [`Mailboxes::report`].
    pub reports: Vec<String>,
}

/// Sends a message and collects the positive replies of Dovecot, which answers for each recipient.
async fn send(
    connection: &mut Connection,
    recipients: Vec<String>,
    pieces: [&[u8]; 2],
    stored: &mut HashMap<String, Reply>,
) -> io::Result<()> {
    let mut stuffing = Stuffing::default();
    for piece in pieces {
        connection.write_pieces(stuffing.piece(piece)).await?;
    }
    connection.write(stuffing.end()).await?;
    let end = Instant::now() + STORE_TIMEOUT;
    for recipient in recipients {
        let reply = connection
            .reply(end.saturating_duration_since(Instant::now()))
            .await?;
        if reply.is_success() {
            stored.insert(recipient, reply);
        }
    }
    Ok(())
}
