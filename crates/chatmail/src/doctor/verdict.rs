//! What a check concludes.

use serde::Serialize;

/// How serious a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum State {
    /// All is well.
    Ok,
    /// The relay works, but something can be better.
    Note,
    /// The check does not apply or cannot tell.
    Skipped,
    /// The relay does not work, or will not for long.
    Failed,
}

/// One finding: what it is, and what to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Finding {
    pub(super) state: State,
    pub(super) text: String,
    pub(super) advice: String,
}

/// The conclusion of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    /// A short summary.
    Well(String),
    /// Why the check says nothing.
    Skipped(String),
    /// One or more findings.
    Found(Vec<Finding>),
}

impl Verdict {
    /// The findings, or the summary if there is none.
    pub(super) fn of(findings: Vec<Finding>, summary: impl FnOnce() -> String) -> Self {
        if findings.is_empty() {
            Self::Well(summary())
        } else {
            Self::Found(findings)
        }
    }
}

pub(super) fn failed(text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        state: State::Failed,
        text: text.into(),
        advice: advice.into(),
    }
}

pub(super) fn note(text: impl Into<String>, advice: impl Into<String>) -> Finding {
    Finding {
        state: State::Note,
        text: text.into(),
        advice: advice.into(),
    }
}
