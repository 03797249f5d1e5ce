//! Delivery to other relays over HTTPS.
//!
//! Postfix looks up the next hops of each recipient here: this service first, and then the mail exchangers of the
//! destination, which smtp(8) tries one after the other in the same attempt (transport(5)). Without a definite reply of
//! the other relay, this service acts as a server that is down, and Postfix continues with SMTP at once. It must not
//! reply instead: after a complete session with the first hop, Postfix would never suspend deliveries to a destination
//! that is down, and each of its messages would occupy a process. Postfix manages the queue, the rate of deliveries and
//! the TLS policy of SMTP.

mod answer;
mod hosts;
mod https;
mod lookup;
mod memory;
mod metrics;
mod networks;
mod peer;
pub(crate) mod results;

use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use chatmail_core::federation::Rules;
use daemon::Service;
use tokio::net::TcpStream;

use self::answer::Answer;
use self::hosts::{Destination, Hosts};
use self::https::Https;
use self::lookup::Lookup;
use self::memory::Memory;
use self::networks::Networks;
use crate::check::Verdict;
use crate::reply::Reply;
use crate::smtp::{Admission, Envelope, Large, Policy, Server, serve_connection};

/// Name of the socket for lookups (`FileDescriptorName=`).
const LOOKUP_SOCKET: &str = "lookup";
/// Name of the socket for results of deliveries.
const RESULTS_SOCKET: &str = "results";
/// Maximum number of mail exchangers of a destination to try.
const MAX_HOSTS: usize = 2;
/// Maximum time that a large message waits for the delivery of others. Then Postfix delivers it over SMTP, so that slow
/// destinations do not delay it.
const LARGE_WAIT: Duration = Duration::from_secs(10);
/// Allowance for the header fields that Postfix and OpenDKIM add to submitted messages.
const ADDED: usize = 1 << 20;

/// Runs the service.
pub async fn run(mut service: Service) -> anyhow::Result<()> {
    let settings = Arc::clone(&service.settings);
    let transport = &settings.transport;
    let networks = Networks::new(
        &transport.reserved_networks,
        &transport.allowed_networks,
        transport.ipv6,
    )?;
    let hosts = Hosts::new(settings.filtermail.resolver, networks)?;
    let lookups = service.named_unix_listener(LOOKUP_SOCKET, &transport.lookup_socket)?;
    let results = service.named_unix_datagram(RESULTS_SOCKET, &transport.results_socket)?;
    let listener = service.tcp_listener(transport.listen)?;
    let postfix = std::fs::metadata(&transport.lookup_socket)
        .with_context(|| format!("cannot read the owner of {}", transport.lookup_socket.display()))?
        .uid();
    service.serve_metrics(|addresses| addresses.filtermail_transport, metrics::describe)?;
    let memory = Arc::new(Memory::default());
    let lookup = Arc::new(Lookup::new(&settings));
    let server = Arc::new(Server {
        policy: Transport {
            https: Https::new(&hosts, transport.port).context("cannot set up the HTTPS client")?,
            hosts,
            memory: Arc::clone(&memory),
            smtp: settings.federation.smtp.send,
            rules: Rules::new(&settings),
        },
        reinject: None,
        max_message_size: settings.messages.max_size + ADDED,
        max_recipients: settings.messages.max_recipients,
        large: Large::new(settings.filtermail.large, LARGE_WAIT),
        trusts_sizes: true,
        shutdown: service.shutdown.clone(),
    });
    service.ready("delivering over HTTPS");
    let answering = daemon::serve(&service, lookups, transport.max_lookups, |stream| {
        let (lookup, memory, shutdown) = (Arc::clone(&lookup), Arc::clone(&memory), service.shutdown.clone());
        async move {
            let answer = |table: &str, key: &str| {
                std::future::ready(lookup.answer(table, key, &memory, Instant::now()))
            };
            if let Err(error) = daemon::socketmap::serve(stream, &shutdown, answer).await {
                tracing::debug!("connection for lookups lost: {error}");
            }
        }
    });
    let delivering = daemon::serve(&service, listener, transport.max_connections, |stream| {
        let server = Arc::clone(&server);
        async move {
            if is_postfix(&stream, postfix).await {
                serve_connection(&server, stream).await;
            }
        }
    });
    let learning = results::learn(&results, &memory, &service.shutdown);
    tokio::join!(answering, delivering, learning);
    Ok(())
}

async fn is_postfix(stream: &TcpStream, user: u32) -> bool {
    match peer::belongs_to(stream, user).await {
        Ok(true) => true,
        Ok(false) => {
            tracing::warn!("closed a connection that is not from Postfix");
            false
        }
        Err(error) => {
            tracing::warn!("cannot find out who has connected: {error}");
            false
        }
    }
}

struct Transport {
    hosts: Hosts,
    https: Https,
    memory: Arc<Memory>,
    /// Whether Postfix continues with SMTP.
    smtp: bool,
    rules: Rules,
}

impl Policy for Transport {
    fn sender(&self, _address: &str) -> Admission {
        Admission::Accept
    }

    /// Messages that Postfix looked up before their destination failed do not have to be sent.
    fn recipient(&self, address: &str) -> Admission {
        // Mail that was in the queue before the rule, and mail of the host; neither has passed the filter.
        if let Some(domain) = self.rules.refused(address) {
            return Admission::Reject(Reply::blocked(&domain));
        }
        let skipped = Destination::of(address).is_none_or(|destination| {
            let name = destination.name();
            if self.smtp {
                self.memory.is_without(name, Instant::now())
            } else {
                self.memory.has_failed(name, Instant::now())
            }
        });
        match (skipped, self.smtp) {
            (false, _) => Admission::Accept,
            (true, true) => Admission::Close(Reply::NOT_OVER_HTTPS),
            (true, false) => Admission::Reject(Reply::ONLY_OVER_HTTPS),
        }
    }

    /// A message occupies its permit for as long as its destination wants.
    fn holders(&self, envelope: &Envelope) -> Vec<String> {
        let destination = envelope.recipients.first();
        let destination = destination.and_then(|path| Destination::of(&path.address));
        let owner = destination.map(|destination| destination.owner());
        envelope.author().into_iter().chain(owner).collect()
    }

    /// Only the other side rejects messages here.
    fn malformed(&self, _reply: Reply) -> Verdict {
        self.not_delivered()
    }

    async fn judge(&self, envelope: &mut Envelope, message: &Bytes) -> Verdict {
        let answer = self.deliver(envelope, message).await;
        metrics::count(&answer);
        match answer.reply() {
            Some(reply) => Verdict::Answered(reply),
            None => self.not_delivered(),
        }
    }
}

impl Transport {
    fn not_delivered(&self) -> Verdict {
        if self.smtp {
            Verdict::Unanswered
        } else {
            Verdict::Answered(Reply::ONLY_OVER_HTTPS)
        }
    }

    async fn deliver(&self, envelope: &Envelope, message: &Bytes) -> Answer {
        // The next hop names the destination, so all recipients of a message have the same.
        let mut destinations = envelope
            .recipients
            .iter()
            .map(|path| Destination::of(&path.address));
        let Some(Some(destination)) = destinations.next() else {
            return Answer::Failed;
        };
        if destinations.any(|other| other.as_ref() != Some(&destination)) {
            return Answer::Failed;
        }
        let Some(fields) = https::fields(envelope) else {
            return Answer::Failed;
        };
        let hosts = self.hosts.find(&destination).await;
        let mut last = Answer::Failed;
        for host in hosts.iter().take(MAX_HOSTS) {
            let answer = self
                .https
                .post(&destination, host, &fields, message.clone())
                .await;
            // The reply of a relay says more than the failure of its backup.
            if answer.reply().is_some() || last.reply().is_none() {
                last = answer;
            }
            if last.is_final() {
                break;
            }
        }
        if !hosts.is_empty() {
            self.memory
                .note(destination.name(), &hosts, &last, Instant::now());
        }
        last
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mail_in_the_queue_comes_back_under_a_new_rule() {
        let sample = include_str!("../../../chatmail-core/testdata/settings.json");
        let settings = chatmail_core::Settings::parse(sample, std::path::Path::new("sample")).unwrap();
        let networks = Networks::new(&[], &[], false).unwrap();
        let hosts = Hosts::new(settings.filtermail.resolver, networks).unwrap();
        let transport = Transport {
            https: Https::new(&hosts, 443).unwrap(),
            hosts,
            memory: Arc::default(),
            smtp: true,
            rules: Rules::new(&settings),
        };
        assert_eq!(
            transport.recipient("a@mx.blocked.example"),
            Admission::Reject(Reply::blocked("mx.blocked.example"))
        );
        assert_eq!(transport.recipient("a@b.test"), Admission::Accept);
    }
}
