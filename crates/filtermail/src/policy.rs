//! What the two filters decide: the pure checks, and around them what has to be looked up.

use chatmail_core::{Address, MailStore};

use crate::check::incoming::{self, Examined};
use crate::check::{Verdict, outgoing};
use crate::dkim::{DkimVerdict, Signed, Verifier};
use crate::metrics::Direction;
use crate::rate::SendLimit;
use crate::reply::Reply;
use crate::smtp::{Admission, Envelope, Policy};

/// Messages above this many bytes are checked off the event loop, so that others do not wait for them.
const BLOCKING: usize = 128 * 1024;

/// Mail that users of this relay submit.
pub struct Outgoing {
    limit: SendLimit,
}

impl Outgoing {
    /// Counts what each address sends against `limit`.
    pub fn new(limit: SendLimit) -> Self {
        Self { limit }
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
        match self.limit.check(address) {
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
        let (message, examined) = off_loop(message, move |message| {
            outgoing::examine(message, &sender, &recipients)
        })
        .await;
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
    verifier: Verifier,
}

impl Incoming {
    /// Protects the accounts of `domain` in `store`.
    pub fn new(store: MailStore, domain: String, verifier: Verifier) -> Self {
        Self {
            store,
            domain,
            verifier,
        }
    }

    async fn check_sender(
        &self,
        examined: &Examined,
        envelope: &Envelope,
        message: Vec<u8>,
    ) -> (Vec<u8>, Verdict) {
        if let Some(literal) = examined.literal {
            let verdict = match incoming::check_literal(literal, envelope.origin) {
                Ok(()) => Verdict::Accept,
                Err(reply) => Verdict::Reject(reply),
            };
            return (message, verdict);
        }
        let domain = examined.domain.clone();
        let head = examined.head;
        let (message, hashes) = off_loop(message, move |message| {
            Signed::parse(message, head, &domain).hash_body()
        })
        .await;
        let Some(hashes) = hashes else {
            return (message, Verdict::Reject(Reply::CHECK_FAILED));
        };
        let signed = Signed::parse(&message, head, &examined.domain);
        let verdict = match self.verifier.verify(signed, hashes).await {
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
}

impl Policy for Incoming {
    fn sender(&self, _: &str) -> Admission {
        Admission::Accept
    }

    async fn judge(&self, envelope: &mut Envelope, message: Vec<u8>) -> (Vec<u8>, Verdict) {
        let sender = envelope.sender.address.clone();
        let (message, examined) = off_loop(message, move |message| incoming::examine(message, &sender)).await;
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

/// Runs a check on a message and gives the message back. None when the check did not come to an end; then the message
/// is gone too.
async fn off_loop<T: Send + 'static>(
    message: Vec<u8>,
    check: impl FnOnce(&[u8]) -> T + Send + 'static,
) -> (Vec<u8>, Option<T>) {
    if message.len() <= BLOCKING {
        let result = check(&message);
        return (message, Some(result));
    }
    let task = tokio::task::spawn_blocking(move || {
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
