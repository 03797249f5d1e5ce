//! Passes on messages: those that a filter has accepted, to mailboxes or to Postfix, and those that arrive over HTTPS.

use std::io;
use std::net::IpAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use chatmail_core::Endpoint;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

use super::connection::{Connection, Failure, Protocol};
use super::data::Stuffing;
use super::envelope::Envelope;
use super::mailboxes::Mailboxes;
use crate::reply::Reply;

/// Longest wait of a message for its turn.
const TURN_TIMEOUT: Duration = Duration::from_secs(45);
/// A delivery to mailboxes that takes longer does not wait for a processor, so it loses its turn.
const LONG_TURN: Duration = Duration::from_secs(1);
/// More would queue for the processors, fewer would leave them idle while Postfix writes to the disk.
const TURNS_PER_PROCESSOR: usize = 2;

/// Where accepted messages are sent, shared by all sessions.
pub struct Target {
    address: Endpoint,
    /// Where messages to users of this relay go first.
    mailboxes: Option<Arc<Mailboxes>>,
    /// Turns of messages that are not large.
    turns: Semaphore,
}

impl Target {
    /// Sends as many messages at once as keep the processors busy. If senders are faster than deliveries, they wait here:
    /// without this limit, accepting mail leaves too little CPU time for delivering it, and the queue grows.
    pub fn new(address: Endpoint) -> Self {
        let processors = std::thread::available_parallelism().map_or(1, NonZeroUsize::get);
        Self::with_turns(address, processors * TURNS_PER_PROCESSOR)
    }

    /// Sends this many messages at once.
    pub fn with_turns(address: Endpoint, turns: usize) -> Self {
        Self {
            address,
            mailboxes: None,
            turns: Semaphore::new(turns),
        }
    }

    /// Delivers to these mailboxes first.
    #[must_use]
    pub fn with_mailboxes(self, mailboxes: Option<Mailboxes>) -> Self {
        Self {
            mailboxes: mailboxes.map(Arc::new),
            ..self
        }
    }

    /// Waits for the turn of a message. Large messages do not take turns, because they take long and have their own
    /// limit.
    async fn turn(&self, large: bool) -> io::Result<Option<SemaphorePermit<'_>>> {
        if large {
            return Ok(None);
        }
        let turn = timeout(TURN_TIMEOUT, self.turns.acquire()).await?;
        turn.map(Some).map_err(io::Error::other)
    }
}

/// A client for one session, with one connection for all messages of the session.
pub struct Reinjector {
    target: Arc<Target>,
    connection: Option<Connection>,
    /// Reports of deliveries that are not sent yet.
    reports: Vec<String>,
}

impl Reinjector {
    /// Connects when the first message is sent.
    pub fn new(target: Arc<Target>) -> Self {
        Self {
            target,
            connection: None,
            reports: Vec::new(),
        }
    }

    /// Sends a message to Postfix for recipients elsewhere, delivers it to mailboxes here, sends it to Postfix for those
    /// that did not get it, and returns the reply; a temporary failure if there is none.
    ///
    /// In this order, a failure has delivered nothing, unless Postfix fails between accepting a message and accepting it
    /// once more.
    pub async fn send(&mut self, envelope: &Envelope, message: &[u8], large: bool) -> Reply {
        let target = Arc::clone(&self.target);
        let turn = match target.turn(large).await {
            Ok(turn) => turn,
            Err(error) => return self.failed(&error),
        };
        let Some(mailboxes) = &target.mailboxes else {
            return self.reinject(envelope, message).await;
        };
        let (own, others) = mailboxes.split(&envelope.recipients);
        let with = |recipients| Envelope {
            recipients,
            ..envelope.clone()
        };
        let mut reply = Reply::DELIVERED;
        let (mut queued, mut stored) = (others.len(), own.len());
        if queued > 0 {
            reply = self.reinject(&with(others), message).await;
        }
        if !reply.is_success() {
            return reply;
        }
        let (undelivered, _turn) = {
            let mut delivery = std::pin::pin!(mailboxes.deliver(&envelope.sender, own, message));
            match timeout(LONG_TURN, &mut delivery).await {
                Ok(undelivered) => (undelivered, turn),
                Err(_) => {
                    drop(turn);
                    (delivery.await, None)
                }
            }
        };
        let rest = undelivered.rest.len();
        if rest > 0 {
            reply = self.reinject(&with(undelivered.rest), message).await;
            queued += rest;
            stored -= rest;
        }
        self.reports = undelivered.reports;
        if reply.is_success() {
            mailboxes.count(stored, queued);
        }
        reply
    }

    /// Reports the deliveries of the last message. The client has its reply by then: if it waited, a restart of Postfix
    /// in the meantime would make it send the message again.
    pub async fn report(&mut self) {
        let reports = std::mem::take(&mut self.reports);
        if let Some(mailboxes) = &self.target.mailboxes {
            mailboxes.report(&reports).await;
        }
    }

    /// Sends a message to Postfix.
    async fn reinject(&mut self, envelope: &Envelope, message: &[u8]) -> Reply {
        if let Some(connection) = self.connection.take() {
            match self.transaction(connection, envelope, message).await {
                // Postfix closes connections that were idle for long.
                Err(Failure::Clean(_)) => {}
                Err(Failure::Uncertain(error)) => return self.failed(&error),
                Ok(reply) => return reply,
            }
        }
        let connection = match Connection::connect(&self.target.address, Protocol::Smtp(None)).await {
            Ok(connection) => connection,
            Err(error) => return self.failed(&error),
        };
        match self.transaction(connection, envelope, message).await {
            Ok(reply) => reply,
            Err(Failure::Clean(error) | Failure::Uncertain(error)) => self.failed(&error),
        }
    }

    async fn transaction(
        &mut self,
        mut connection: Connection,
        envelope: &Envelope,
        message: &[u8],
    ) -> Result<Reply, Failure> {
        let outcome = connection.transaction(envelope, message).await?;
        if outcome.reusable {
            self.connection = Some(connection);
        }
        Ok(outcome.reply)
    }

    fn failed(&self, error: &io::Error) -> Reply {
        tracing::warn!(
            "cannot return a message to Postfix at {}: {error}",
            self.target.address
        );
        Reply::REINJECT_FAILED
    }

    /// Ends the session with Postfix.
    pub async fn close(mut self) {
        if let Some(mut connection) = self.connection.take() {
            // The reply makes no difference, and a broken connection is closed too.
            let _ = connection.write(b"QUIT\r\n").await;
        }
    }
}

/// A message that is passed to Postfix in parts, as they arrive. Postfix discards it if this is dropped before
/// [`Self::finish`].
pub struct Delivery {
    connection: Connection,
    stuffing: Stuffing,
}

impl Delivery {
    /// Sends an envelope to an smtpd that reads the client's address from the PROXY protocol. The inner error is
    /// Postfix's negative reply.
    pub async fn begin(
        address: &Endpoint,
        origin: IpAddr,
        envelope: &Envelope,
    ) -> io::Result<Result<Self, Reply>> {
        let mut connection = match Connection::open(address, Protocol::Smtp(Some(origin))).await? {
            Ok(connection) => connection,
            Err(reply) => return Ok(Err(reply)),
        };
        Ok(match connection.envelope(envelope).await? {
            None => Ok(Self {
                connection,
                stuffing: Stuffing::default(),
            }),
            Some(refused) => Err(refused.reply),
        })
    }

    /// Sends the next part of the message.
    pub async fn write(&mut self, part: &[u8]) -> io::Result<()> {
        self.connection.write_pieces(self.stuffing.piece(part)).await
    }

    /// Ends the message and returns the reply to it; fails after `wait`.
    pub async fn finish(mut self, wait: Duration) -> io::Result<Reply> {
        self.connection.write(self.stuffing.end()).await?;
        let reply = self.connection.reply(wait).await?;
        // The reply makes no difference.
        let _ = self.connection.write(b"QUIT\r\n").await;
        Ok(reply)
    }
}
