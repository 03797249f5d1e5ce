//! What commands print.

/// The output of a command.
pub(crate) struct Answer {
    pub(crate) text: String,
    /// Whether nothing needs attention; determines the exit status.
    pub(crate) good: bool,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self { text, good: true }
    }
}
