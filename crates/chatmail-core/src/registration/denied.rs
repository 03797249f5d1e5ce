//! Reasons for which no account is created.

use std::path::PathBuf;

/// Why an account is not created. The texts are log lines.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// A file closes the relay.
    #[error("blocked account creation because '{}' exists.", .0.display())]
    ClosedByFile(PathBuf),
    /// The settings close the relay.
    #[error("blocked account creation because registration is closed.")]
    Closed,
    /// There is no token, or none of an invitation.
    #[error("blocked account creation without an invitation.")]
    Uninvited,
    /// The time of the invitation is over.
    #[error("blocked account creation because the invitation has expired.")]
    Expired,
    /// As many accounts as allowed were created with the invitation.
    #[error("blocked account creation because the invitation is used up.")]
    UsedUp,
    /// As many accounts as allowed were created within an hour.
    #[error("blocked account creation because {0} accounts were created within an hour.")]
    HourlyLimit(u32),
}

impl Denied {
    /// Labels of all reasons in metrics.
    pub const LABELS: [&'static str; 5] = ["closed", "uninvited", "expired", "used_up", "limit"];

    /// Label of the reason in metrics.
    pub fn label(&self) -> &'static str {
        match self {
            Self::ClosedByFile(_) | Self::Closed => "closed",
            Self::Uninvited => "uninvited",
            Self::Expired => "expired",
            Self::UsedUp => "used_up",
            Self::HourlyLimit(_) => "limit",
        }
    }
}
