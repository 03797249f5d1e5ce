//! The policies of the two filters: the pure checks, combined with lookups.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use chatmail_core::federation::Rules;
use chatmail_core::settings::LargeMessages;
use chatmail_core::{Address, MailStore};
use tokio::sync::Semaphore;

use crate::check::incoming::{self, Examined};
use crate::check::mime::Entity;
use crate::check::{Direction, Verdict, bounds, outgoing};
use crate::dkim::{DkimVerdict, Signatures, Verifier};
use crate::metrics;
use crate::milter::Gate;
use crate::rate::SendLimit;
use crate::reply::Reply;
use crate::smtp::{Admission, Envelope, Policy};

/// Size in bytes above which a message is checked off the event loop, so that others do not wait for it.
const BLOCKING: usize = 128 * 1024;

/// Policy for mail that users of this relay submit.
pub struct Outgoing {
    limit: SendLimit,
    rules: Rules,
    checks: Checks,
}

impl Outgoing {
    /// Counts what each address sends against `limit`.
    pub fn new(limit: SendLimit, rules: Rules, large: LargeMessages) -> Self {
        Self {
            limit,
            rules,
            checks: Checks::new(large),
        }
    }
}

/// The rejection of an address whose domain the rules exclude. Logs do not name the account.
fn excluded(rules: &Rules, direction: Direction, address: &str) -> Result<(), Reply> {
    let Some(domain) = rules.refused(address) else {
        return Ok(());
    };
    let reply = Reply::blocked(&domain);
    let way = match direction {
        Direction::Outgoing => "Outgoing",
        Direction::Incoming => "Incoming",
    };
    tracing::info!("{way}: Rejected mail by a rule: {reply}");
    Err(reply)
}

impl Gate for Outgoing {
    fn admits(&self, recipient: &str) -> Result<(), Reply> {
        excluded(&self.rules, Direction::Outgoing, recipient)
            .inspect_err(|_| metrics::blocked(Direction::Outgoing))
    }

    fn begins(&self, sender: &str) -> Result<(), Reply> {
        self.limit.reserve(sender).map_err(|seconds| {
            metrics::limited();
            Reply::too_much_mail(sender, seconds)
        })
    }
}

impl Gate for Incoming {
    fn admits(&self, _: &str) -> Result<(), Reply> {
        Ok(())
    }

    fn begins(&self, sender: &str) -> Result<(), Reply> {
        excluded(&self.rules, Direction::Incoming, sender)
            .inspect_err(|_| metrics::blocked(Direction::Incoming))
    }
}

impl Policy for Outgoing {
    fn sender(&self, address: &str) -> Admission {
        let one_at = address
            .split_once('@')
            .is_some_and(|(_, domain)| !domain.contains('@'));
        if !one_at {
            return Admission::Reject(Reply::invalid_mail_from(address));
        }
        match self.limit.redeem(address) {
            Ok(()) => Admission::Accept,
            Err(seconds) => {
                metrics::limited();
                Admission::Close(Reply::too_much_mail(address, seconds))
            }
        }
    }

    fn recipient(&self, address: &str) -> Admission {
        match self.admits(address) {
            Ok(()) => Admission::Accept,
            Err(reply) => Admission::Reject(reply),
        }
    }

    /// Postfix accepts only the address of the account as the sender.
    fn holders(&self, envelope: &Envelope) -> Vec<String> {
        envelope.author().into_iter().collect()
    }

    fn answered(&self, reply: &Reply, took: Duration) {
        metrics::answered(Direction::Outgoing, reply, took);
    }

    async fn judge(&self, envelope: &mut Envelope, message: &Bytes) -> Verdict {
        let sender = envelope.sender.address.clone();
        let recipients = envelope.recipient_addresses();
        let examine = move |message: &[u8]| {
            bounds::check(message)?;
            outgoing::examine(message, &sender, &recipients)
        };
        match self.checks.run(message, BLOCKING, examine).await {
            None => Verdict::Reject(Reply::CHECK_FAILED),
            Some(Err(reply)) => Verdict::Reject(reply),
            Some(Ok(outgoing::Kind::Encrypted)) => {
                tracing::info!("Outgoing: Filtering encrypted mail.");
                Verdict::Accept
            }
            Some(Ok(kind)) => {
                tracing::info!("Outgoing: Filtering unencrypted mail.");
                if kind == outgoing::Kind::SetupMessage {
                    Verdict::Accept
                } else {
                    refuse_cleartext(&envelope.sender.address)
                }
            }
        }
    }
}

/// Policy for mail that arrives from other servers.
pub struct Incoming {
    store: MailStore,
    domain: String,
    /// The address in `domain`, if that is an address literal.
    own_literal: Option<IpAddr>,
    verifier: Verifier,
    rules: Rules,
    checks: Checks,
}

impl Incoming {
    /// Protects the accounts of `domain` in `store`.
    pub fn new(
        store: MailStore,
        domain: String,
        verifier: Verifier,
        rules: Rules,
        large: LargeMessages,
    ) -> Self {
        Self {
            store,
            own_literal: incoming::literal(&domain),
            domain,
            verifier,
            rules,
            checks: Checks::new(large),
        }
    }

    /// Checks that the message comes from the domain in its `From` field.
    async fn check_sender(&self, examined: &Examined, envelope: &Envelope, message: &Bytes) -> Verdict {
        if let Some(literal) = examined.literal {
            return match incoming::check_literal(literal, envelope.origin, self.own_literal) {
                Ok(()) => Verdict::Accept,
                Err(reply) => Verdict::Reject(reply),
            };
        }
        match self.verify(&examined.domain, message).await.counted() {
            DkimVerdict::Valid => Verdict::Accept,
            DkimVerdict::Invalid(reason) => {
                tracing::info!("Incoming: Rejected mail without a valid DKIM signature: {reason}");
                Verdict::Reject(Reply::no_valid_dkim(&reason))
            }
            DkimVerdict::Temporary(reason) => {
                tracing::warn!("Incoming: cannot look up a DKIM key: {reason}");
                Verdict::Reject(Reply::DKIM_TEMPORARY)
            }
        }
    }

    /// Parses the signatures and hashes the body, looks the keys up, and verifies.
    async fn verify(&self, domain: &str, message: &Bytes) -> DkimVerdict {
        let failed = || DkimVerdict::Temporary("a check failed".to_owned());
        let now = chatmail_core::unix_seconds(SystemTime::now());
        let of = domain.to_owned();
        let find = move |message: &[u8]| Signatures::find(&Entity::split(message), &of, now);
        let signatures = match self.checks.run(message, BLOCKING, find).await {
            None => return failed(),
            Some(Err(reason)) => return DkimVerdict::Invalid(reason),
            Some(Ok(signatures)) => signatures,
        };
        let names = signatures.key_names();
        let keys = match self
            .verifier
            .find(domain, &names, self.checks.limits.include(message.len()))
            .await
        {
            Ok(keys) => keys,
            Err(verdict) => return verdict,
        };
        let verify = move |message: &[u8]| signatures.verify(&Entity::split(message), &keys);
        let verdict = self.checks.run(message, 0, verify).await;
        verdict.unwrap_or_else(failed)
    }
}

impl Policy for Incoming {
    fn sender(&self, address: &str) -> Admission {
        match self.begins(address) {
            Ok(()) => Admission::Accept,
            Err(reply) => Admission::Reject(reply),
        }
    }

    /// Anybody can write any envelope.
    fn holders(&self, envelope: &Envelope) -> Vec<String> {
        envelope.network().into_iter().collect()
    }

    fn answered(&self, reply: &Reply, took: Duration) {
        metrics::answered(Direction::Incoming, reply, took);
    }

    async fn judge(&self, envelope: &mut Envelope, message: &Bytes) -> Verdict {
        let sender = envelope.sender.address.clone();
        let examine = move |message: &[u8]| {
            bounds::check(message)?;
            incoming::examine(message, &sender)
        };
        let examined = match self.checks.run(message, BLOCKING, examine).await {
            None => return Verdict::Reject(Reply::CHECK_FAILED),
            Some(Err(reply)) => return Verdict::Reject(reply),
            Some(Ok(examined)) => examined,
        };
        // Anybody can write any envelope, but the domain in `From` has signed the message.
        if let Err(reply) = excluded(&self.rules, Direction::Incoming, &examined.from) {
            return Verdict::Reject(reply);
        }
        if examined.reset_sender {
            envelope.sender.address.clear();
        }
        match examined.kind {
            incoming::Kind::Encrypted => tracing::info!("Incoming: Filtering encrypted mail."),
            incoming::Kind::MailerDaemon => {
                tracing::info!(
                    "Incoming: Filtering mailer-daemon message from {}.",
                    examined.from
                );
            }
            incoming::Kind::Cleartext => {
                tracing::info!("Incoming: Filtering unencrypted mail.");
                let recipients = envelope.recipient_addresses();
                let (store, domain) = (self.store.clone(), self.domain.clone());
                let refused = tokio::task::spawn_blocking(move || {
                    recipients
                        .iter()
                        .any(|recipient| refuses_cleartext(&store, &domain, recipient))
                });
                if refused.await.unwrap_or(true) {
                    return refuse_cleartext(&examined.from);
                }
            }
        }
        self.check_sender(&examined, envelope, message).await
    }
}

fn refuse_cleartext(from: &str) -> Verdict {
    // The domain helps operators; the account would identify the sender.
    let domain = from.rsplit_once('@').map_or("", |(_, domain)| domain);
    tracing::info!("Rejected unencrypted mail from: {domain}");
    Verdict::Reject(Reply::ENCRYPTION_NEEDED)
}

/// Whether a recipient refuses cleartext. Postfix accepts several spellings of an address; one that is not plainly an
/// account of this relay counts as protected.
fn refuses_cleartext(store: &MailStore, domain: &str, recipient: &str) -> bool {
    let whole = Address::parse(&recipient.to_ascii_lowercase());
    let (Ok(_), Ok(account)) = (whole, Address::of_recipient(recipient)) else {
        return true;
    };
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    let known = account.domain() == domain && account.localpart().bytes().all(plain);
    !known || store.account(&account).enforces_e2ee()
}

/// Runs checks of messages. As many as there may be large messages run at once, and again as many for other messages: a
/// sender of large messages does not delay the others.
struct Checks {
    limits: LargeMessages,
    small_ones: Arc<Semaphore>,
    large_ones: Arc<Semaphore>,
}

impl Checks {
    fn new(limits: LargeMessages) -> Self {
        let permits = || Arc::new(Semaphore::new(limits.at_once));
        Self {
            limits,
            small_ones: permits(),
            large_ones: permits(),
        }
    }

    /// Runs a check on a message; off the event loop if it has more than `blocking` bytes. None when the check panics.
    async fn run<T: Send + 'static>(
        &self,
        message: &Bytes,
        blocking: usize,
        check: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> Option<T> {
        if message.len() <= blocking {
            return Some(check(message));
        }
        let lane = if self.limits.include(message.len()) {
            &self.large_ones
        } else {
            &self.small_ones
        };
        // The semaphore is never closed. The task owns the permit: it runs on after its connection is closed.
        let permit = Arc::clone(lane).acquire_owned().await.ok();
        let message = message.clone();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            check(&message)
        });
        task.await
            .inspect_err(|error| tracing::error!("a check failed: {error}"))
            .ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cleartext_is_taken_only_where_the_account_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = MailStore::new(dir.path());
        let account = |localpart: &str| {
            let account = store.account(&Address::parse(&format!("{localpart}@c.test")).unwrap());
            account.create("x").unwrap();
            account
        };
        account("protected");
        let open = account("open");
        std::fs::remove_file(open.dir().join(chatmail_core::account::ENFORCE_E2EE_FILE)).unwrap();
        let refuses = |recipient| refuses_cleartext(&store, "c.test", recipient);
        assert!(!refuses("open@c.test"));
        assert!(!refuses("Open+tag@C.test"));
        assert!(!refuses("nobody@c.test"), "Postfix bounces it");
        for protected in [
            "protected@c.test",
            "PROTECTED+tag@C.TEST",
            "\"open\"@c.test",
            "protected%c.test@c.test",
            "c.test!protected@c.test",
            "open@[192.0.2.1]",
            "open@c.test.",
            "open@d.test",
            "+x@c.test",
            "open",
        ] {
            assert!(refuses(protected), "{protected}");
        }
    }
}
