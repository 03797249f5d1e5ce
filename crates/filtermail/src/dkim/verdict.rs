//! The result of a verification.

use crate::metrics;

/// The result of a verification.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DkimVerdict {
    /// A signature by the domain is valid.
    Valid,
    /// No signature by the domain is valid; the reason.
    Invalid(String),
    /// The lookup of a key failed temporarily; the reason.
    Temporary(String),
}

impl DkimVerdict {
    /// Counts it.
    pub(crate) fn counted(self) -> Self {
        metrics::dkim(match self {
            Self::Valid => "valid",
            Self::Invalid(_) => "invalid",
            Self::Temporary(_) => "temporary",
        });
        self
    }
}
