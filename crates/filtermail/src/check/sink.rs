//! How decoded bytes are passed on: in pieces, until no more are of interest.

/// The bytes are not an encrypted message, whatever follows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NotEncrypted;

/// Accepts bytes in pieces.
pub(super) trait Sink {
    /// Accepts the next bytes. After an error, further bytes make no difference.
    fn feed(&mut self, bytes: &[u8]) -> Result<(), NotEncrypted>;
}
