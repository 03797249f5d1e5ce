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

/// Maximum width of a line.
pub(crate) const WIDTH: usize = 80;

/// Breaks a text after this many columns before it. A longer word, such as a key, stays whole.
pub(crate) fn wrapped(text: &str, indent: usize) -> String {
    let mut wrapped = String::new();
    let mut column = indent;
    for word in text.split_whitespace() {
        let length = word.chars().count();
        if column > indent && column + 1 + length > WIDTH {
            wrapped.push('\n');
            wrapped.push_str(&" ".repeat(indent));
            column = indent;
        } else if column > indent {
            wrapped.push(' ');
            column += 1;
        }
        wrapped.push_str(word);
        column += length;
    }
    wrapped
}
