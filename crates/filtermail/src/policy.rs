//! What the two filters decide: the pure checks, and around them what has to be looked up.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use chatmail_core::{Address, MailStore};
use tokio::sync::Semaphore;

use crate::check::incoming::{self, Examined};
use crate::check::mime::Entity;
use crate::check::{Verdict, bounds, outgoing};
use crate::dkim::{DkimVerdict, Signatures, Verifier};
use crate::metrics::Direction;
use crate::rate::SendLimit;
use crate::reply::Reply;
use crate::smtp::{Admission, Envelope, LARGE, LARGE_AT_ONCE, Policy};

/// Messages above this many bytes are checked off the event loop, so that others do not wait for them.
const BLOCKING: usize = 128 * 1024;
/// Checks off the event loop at once, for messages up to [`LARGE`] and again for others: who sends large ones does not
/// make the rest wait.
const CHECKS_AT_ONCE: usize = LARGE_AT_ONCE;

/// Mail that users of this relay submit.
pub struct Outgoing {
    limit: Arc<SendLimit>,
    checks: Checks,
}

impl Outgoing {
    /// Counts what each address sends against `limit`.
    pub fn new(limit: Arc<SendLimit>) -> Self {
        Self {
            limit,
            checks: Checks::new(),
        }
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
                Direction::Outgoing.limited();
                Admission::Close(Reply::too_much_mail(address, seconds))
            }
        }
    }

    async fn judge(&self, envelope: &mut Envelope, message: Vec<u8>) -> (Vec<u8>, Verdict) {
        let sender = envelope.sender.address.clone();
        let recipients: Vec<String> = envelope
            .recipients
            .iter()
            .map(|path| path.address.clone())
            .collect();
        let examine = move |message: &[u8]| {
            bounds::check(message)?;
            outgoing::examine(message, &sender, &recipients)
        };
        let (message, examined) = self.checks.run(message, BLOCKING, examine).await;
        let verdict = match examined {
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
        };
        (message, verdict)
    }
}

/// Mail that arrives from other servers.
pub struct Incoming {
    store: MailStore,
    domain: String,
    /// The address in `domain`, if that is an address literal.
    own_literal: Option<IpAddr>,
    verifier: Verifier,
    checks: Checks,
}

impl Incoming {
    /// Protects the accounts of `domain` in `store`.
    pub fn new(store: MailStore, domain: String, verifier: Verifier) -> Self {
        Self {
            store,
            own_literal: incoming::literal(&domain),
            domain,
            verifier,
            checks: Checks::new(),
        }
    }

    async fn check_sender(
        &self,
        examined: &Examined,
        envelope: &Envelope,
        message: Vec<u8>,
    ) -> (Vec<u8>, Verdict) {
        if let Some(literal) = examined.literal {
            let verdict = match incoming::check_literal(literal, envelope.origin, self.own_literal) {
                Ok(()) => Verdict::Accept,
                Err(reply) => Verdict::Reject(reply),
            };
            return (message, verdict);
        }
        let (message, verdict) = self.verify(&examined.domain, message).await;
        let verdict = match verdict.counted() {
            DkimVerdict::Valid => Verdict::Accept,
            DkimVerdict::Invalid(reason) => {
                tracing::info!("Incoming: Rejected mail without a valid DKIM signature: {reason}");
                Verdict::Reject(Reply::no_valid_dkim(&reason))
            }
            DkimVerdict::Temporary(reason) => {
                tracing::warn!("Incoming: cannot look up a DKIM key: {reason}");
                Verdict::Reject(Reply::DKIM_TEMPORARY)
            }
        };
        (message, verdict)
    }

    /// Parses the signatures and hashes the body, looks the keys up, and verifies.
    async fn verify(&self, domain: &str, message: Vec<u8>) -> (Vec<u8>, DkimVerdict) {
        let failed = |message| (message, DkimVerdict::Temporary("a check failed".to_owned()));
        let now = SystemTime::now()
            .duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| since.as_secs());
        let large = message.len() > LARGE;
        let of = domain.to_owned();
        let find = move |message: &[u8]| Signatures::find(&Entity::split(message), &of, now);
        let (message, signatures) = self.checks.run(message, BLOCKING, find).await;
        let signatures = match signatures {
            None => return failed(message),
            Some(Err(reason)) => return (message, DkimVerdict::Invalid(reason)),
            Some(Ok(signatures)) => signatures,
        };
        let names = signatures.key_names();
        let keys = match self.verifier.find(domain, &names, large).await {
            Ok(keys) => keys,
            Err(verdict) => return (message, verdict),
        };
        let verify = move |message: &[u8]| signatures.verify(&Entity::split(message), &keys);
        let (message, verdict) = self.checks.run(message, 0, verify).await;
        match verdict {
            Some(verdict) => (message, verdict),
            None => failed(message),
        }
    }
}

impl Policy for Incoming {
    fn sender(&self, _: &str) -> Admission {
        Admission::Accept
    }

    async fn judge(&self, envelope: &mut Envelope, message: Vec<u8>) -> (Vec<u8>, Verdict) {
        let sender = envelope.sender.address.clone();
        let examine = move |message: &[u8]| {
            bounds::check(message)?;
            incoming::examine(message, &sender)
        };
        let (message, examined) = self.checks.run(message, BLOCKING, examine).await;
        let examined = match examined {
            None => return (message, Verdict::Reject(Reply::CHECK_FAILED)),
            Some(Err(reply)) => return (message, Verdict::Reject(reply)),
            Some(Ok(examined)) => examined,
        };
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
                let recipients: Vec<String> = envelope
                    .recipients
                    .iter()
                    .map(|path| path.address.clone())
                    .collect();
                let (store, domain) = (self.store.clone(), self.domain.clone());
                let refused = tokio::task::spawn_blocking(move || {
                    recipients
                        .iter()
                        .any(|recipient| refuses_cleartext(&store, &domain, recipient))
                });
                if refused.await.unwrap_or(true) {
                    return (message, refuse_cleartext(&examined.from));
                }
            }
        }
        self.check_sender(&examined, envelope, message).await
    }
}

fn refuse_cleartext(from: &str) -> Verdict {
    // Which domain it was helps operators; who it was is nobody's business.
    let domain = from.rsplit_once('@').map_or("", |(_, domain)| domain);
    tracing::info!("Rejected unencrypted mail from: {domain}");
    Verdict::Reject(Reply::ENCRYPTION_NEEDED)
}

/// Whether a recipient takes no cleartext. Postfix knows several ways to write the same address; one that is not
/// plainly an account of ours counts as protected.
fn refuses_cleartext(store: &MailStore, domain: &str, recipient: &str) -> bool {
    let Ok(address) = Address::parse(&recipient.to_ascii_lowercase()) else {
        return true;
    };
    let localpart = address.localpart();
    let account = localpart
        .split_once('+')
        .map_or(localpart, |(account, _)| account);
    let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    if address.domain() != domain || !account.bytes().all(plain) {
        return true;
    }
    match Address::parse(&format!("{account}@{domain}")) {
        Ok(account) => store.account(&account).enforces_e2ee(),
        Err(_) => true,
    }
}

/// Where checks of messages run.
struct Checks {
    small: Arc<Semaphore>,
    large: Arc<Semaphore>,
}

impl Checks {
    fn new() -> Self {
        let permits = || Arc::new(Semaphore::new(CHECKS_AT_ONCE));
        Self {
            small: permits(),
            large: permits(),
        }
    }

    /// Runs a check on a message and gives the message back; off the event loop if it has more than `blocking` bytes.
    /// None when the check did not come to an end; then the message is gone too.
    async fn run<T: Send + 'static>(
        &self,
        message: Vec<u8>,
        blocking: usize,
        check: impl FnOnce(&[u8]) -> T + Send + 'static,
    ) -> (Vec<u8>, Option<T>) {
        if message.len() <= blocking {
            let result = check(&message);
            return (message, Some(result));
        }
        let lane = if message.len() > LARGE {
            &self.large
        } else {
            &self.small
        };
        // The semaphore is never closed. The permit goes along: a check whose connection is gone still runs.
        let permit = Arc::clone(lane).acquire_owned().await.ok();
        let task = tokio::task::spawn_blocking(move || {
            let _permit = permit;
            let result = check(&message);
            (message, result)
        });
        match task.await {
            Ok((message, result)) => (message, Some(result)),
            Err(error) => {
                tracing::error!("a check failed: {error}");
                (Vec::new(), None)
            }
        }
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
