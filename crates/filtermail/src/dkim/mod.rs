//! DKIM verification of arriving mail (RFC 6376), with strict alignment: a signature counts only if its `d=` is the
//! domain of the `From` field.
//!
//! mail-auth verifies the signed fields with one key at a time. This module decides which signatures and which keys
//! count, and which messages may wait for a key. It parses each signature once: mail-auth's parser accepts repeated
//! tags and cannot tell absent ones. It also computes the body hash: mail-auth feeds the body to the hash byte by byte,
//! which takes half a second for a large message, and keeps lines of white space at the end of the body.

mod body;
mod keys;
mod record;
mod signature;
mod signed;
mod tags;
mod verdict;
mod waits;

use std::net::SocketAddr;

use crate::dns::ResolverError;
use keys::Keys;
use waits::{Waited, Waits};

pub use body::body_hash;
pub use keys::FoundKeys;
pub use signed::Signatures;
pub use verdict::DkimVerdict;

/// Divisor of the filter's connections: the result is how many may wait for slow name servers.
const WAITING_SHARE: usize = 4;

/// Looks up the keys of signatures.
pub struct Verifier {
    keys: Keys,
    waits: Waits,
}

impl Verifier {
    /// Looks up keys with the resolver at `address`, for a filter that serves this many connections.
    pub fn new(address: SocketAddr, max_connections: usize) -> Result<Self, ResolverError> {
        Ok(Self {
            keys: Keys::new(address)?,
            waits: Waits::new(max_connections.div_ceil(WAITING_SHARE)),
        })
    }

    /// Looks up the keys at these names, one after the other within one wait. An error says why the message is
    /// deferred.
    pub async fn find(&self, domain: &str, names: &[String], large: bool) -> Result<FoundKeys, DkimVerdict> {
        let lookups = async {
            // At most a handful, and usually one.
            let mut found = Vec::with_capacity(names.len());
            for name in names {
                found.push(self.keys.find(name).await);
            }
            FoundKeys(found)
        };
        let reason = match self.waits.wait(domain, large, lookups).await {
            Waited::Done(found) => return Ok(found),
            Waited::TimedOut => "lookup timed out",
            Waited::Full => "too many messages are waiting for slow name servers",
        };
        Err(DkimVerdict::Temporary(reason.to_owned()))
    }
}
