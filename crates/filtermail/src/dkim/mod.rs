//! DKIM verification of arriving mail (RFC 6376), with strict alignment: a signature counts only if its `d=` is the
//! domain of the `From` field.
//!
//! mail-auth parses, looks up and verifies. The body hash is computed here, because mail-auth feeds the body to the
//! hash byte by byte, which costs half a second for a large message, and because it keeps lines at the end that have
//! nothing but white space.

mod body;
mod cache;

use std::net::SocketAddr;
use std::time::Duration;

use mail_auth::common::crypto::HashAlgorithm;
use mail_auth::dkim::Canonicalization;
use mail_auth::hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use mail_auth::{AuthenticatedMessage, DkimResult, DnsError, Error, MessageAuthenticator, Parameters};

use crate::metrics;

pub use body::body_hash;
pub use cache::KeyCache;

/// Longest time that all key lookups for one message may take; Postfix waits 100 s for the whole pass.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(20);
/// Longest wait for one answer of the resolver.
const QUERY_TIMEOUT: Duration = Duration::from_secs(4);
/// Questions asked again when no answer came.
const QUERY_RETRIES: usize = 2;
/// Signatures looked at per message, so that a message cannot make us look up any number of keys.
const MAX_SIGNATURES: usize = 5;

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DkimVerdict {
    /// The domain has signed the message.
    Valid,
    /// No valid signature by the domain, and why.
    Invalid(String),
    /// A key could not be looked up for now.
    Temporary(String),
}

/// Verifies signatures with keys from one resolver.
pub struct Verifier {
    authenticator: MessageAuthenticator,
    keys: KeyCache,
}

/// The resolver could not be set up; the service does not start.
#[derive(Debug, thiserror::Error)]
#[error("cannot set up the resolver {address}: {reason}")]
pub struct ResolverError {
    /// Address of the resolver.
    address: SocketAddr,
    /// What the library said.
    reason: String,
}

/// A message whose signatures are parsed and whose body is not hashed yet.
pub struct Signed<'a> {
    message: AuthenticatedMessage<'a>,
    body: &'a [u8],
    reason: Option<String>,
}

impl<'a> Signed<'a> {
    /// Finds the signatures by `domain` (lower case) in a message whose header has `head` bytes.
    pub fn parse(message: &'a [u8], head: usize, domain: &str) -> Self {
        let (header, body) = message.split_at_checked(head).unwrap_or((message, &[]));
        // Given the header only, so that the body is not hashed there.
        let mut message = AuthenticatedMessage::parse(header).unwrap_or_default();
        let unsigned = message.dkim_headers.is_empty() && !message.has_dkim_errors;
        let malformed = message
            .errors
            .iter()
            .map(|error| &error.header)
            .find(|error| matches!(error, Error::Dkim(_) | Error::Base64 | Error::MissingParameters))
            .map(ToString::to_string);
        message.dkim_headers.retain(|header| {
            let signature = &header.header;
            // RFC 6376 section 5.4: the From field is always signed. Section 3.5: `i=` lies below `d=`.
            signature.d == domain
                && signature.h.iter().any(|name| name.eq_ignore_ascii_case("from"))
                && is_below(&signature.i, domain)
                // RFC 8301 section 3.1: SHA-1 counts as no signature.
                && HashAlgorithm::from(signature.a) == HashAlgorithm::Sha256
        });
        message.dkim_headers.truncate(MAX_SIGNATURES);
        message.errors.clear();
        for header in &mut message.dkim_headers {
            // Requests for reports and third-party records would have us look up more names; neither counts here.
            header.header.r = false;
            header.header.atps = None;
        }
        let reason = if unsigned {
            Some("No DKIM signature found".to_owned())
        } else if message.dkim_headers.is_empty() {
            Some(malformed.unwrap_or_else(|| "No signature by the domain of the From header".to_owned()))
        } else {
            None
        };
        Self {
            message,
            body,
            reason,
        }
    }

    /// Body hashes that the signatures ask for.
    fn wanted(&self) -> Vec<Canonicalization> {
        let relaxed = |c: &Canonicalization| matches!(c, Canonicalization::Relaxed);
        let mut wanted: Vec<_> = self
            .message
            .dkim_headers
            .iter()
            .map(|header| header.header.cb)
            .collect();
        wanted.sort_unstable_by_key(relaxed);
        wanted.dedup();
        wanted
    }

    /// Hashes the body in each way that a signature asks for. This takes time in proportion to the message.
    pub fn hash_body(&self) -> BodyHashes {
        self.wanted()
            .into_iter()
            .map(|c| (c, body_hash(c, self.body)))
            .collect()
    }
}

/// Body hashes by canonicalization.
pub type BodyHashes = Vec<(Canonicalization, Vec<u8>)>;

/// Whether an identity (RFC 6376 section 3.5, `i=`) is of the domain or below it.
fn is_below(identity: &str, domain: &str) -> bool {
    let found = identity.rsplit_once('@').map_or(identity, |(_, found)| found);
    found.is_empty()
        || found
            .strip_suffix(domain)
            .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
}

impl Verifier {
    /// Looks keys up with the resolver at `address`.
    pub fn new(address: SocketAddr) -> Result<Self, ResolverError> {
        let mut server = NameServerConfig::udp_and_tcp(address.ip());
        for connection in &mut server.connections {
            connection.port = address.port();
        }
        let mut options = ResolverOpts::default();
        options.timeout = QUERY_TIMEOUT;
        options.attempts = QUERY_RETRIES;
        // Keys are remembered here, and absent ones by nobody: a key that was just published is found at once.
        options.cache_size = 0;
        let authenticator =
            MessageAuthenticator::new(ResolverConfig::from_name_servers(vec![server]), options).map_err(
                |error| ResolverError {
                    address,
                    reason: error.to_string(),
                },
            )?;
        Ok(Self {
            authenticator,
            keys: KeyCache::new(),
        })
    }

    /// The keys that are remembered.
    pub fn keys(&self) -> &KeyCache {
        &self.keys
    }

    /// Verifies the signatures of a message, given the hashes of its body.
    pub async fn verify(&self, signed: Signed<'_>, hashes: BodyHashes) -> DkimVerdict {
        let verdict = self.verdict(signed, hashes).await;
        metrics::dkim(&verdict);
        verdict
    }

    async fn verdict(&self, mut signed: Signed<'_>, hashes: BodyHashes) -> DkimVerdict {
        if let Some(reason) = signed.reason {
            return DkimVerdict::Invalid(reason);
        }
        signed.message.body_hashes = hashes
            .into_iter()
            .map(|(canonicalization, digest)| (canonicalization, HashAlgorithm::Sha256, 0, digest))
            .collect();
        let parameters = Parameters::new(&signed.message).with_txt_cache(&self.keys);
        let outputs =
            match tokio::time::timeout(LOOKUP_TIMEOUT, self.authenticator.verify_dkim(parameters)).await {
                Ok(outputs) => outputs,
                Err(_) => return DkimVerdict::Temporary("lookup timed out".to_owned()),
            };
        judge(outputs.iter().map(|output| output.result()))
    }
}

/// One valid signature is enough; short of that, a key that may appear later keeps the message from being refused for
/// good.
fn judge<'a>(results: impl Iterator<Item = &'a DkimResult>) -> DkimVerdict {
    let mut temporary = None;
    let mut invalid = None;
    for result in results {
        match result {
            DkimResult::Pass => return DkimVerdict::Valid,
            DkimResult::TempError(error) => {
                temporary.get_or_insert(error);
            }
            DkimResult::Neutral(error) | DkimResult::Fail(error) | DkimResult::PermError(error) => {
                invalid.get_or_insert(error);
            }
            DkimResult::None => {}
        }
    }
    match (temporary, invalid) {
        (Some(error), _) => DkimVerdict::Temporary(error.to_string()),
        (None, Some(Error::Dns(DnsError::RecordNotFound(_)))) => {
            DkimVerdict::Invalid("No key in the DNS".to_owned())
        }
        (None, Some(error)) => DkimVerdict::Invalid(error.to_string()),
        (None, None) => DkimVerdict::Invalid("No DKIM signature found".to_owned()),
    }
}
