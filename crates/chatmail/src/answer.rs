//! What commands print.

use std::env;
use std::ffi::OsStr;
use std::fmt;
use std::io::{self, IsTerminal as _, Write as _};

/// The output of a command.
pub(crate) struct Answer {
    pub(crate) text: String,
    /// Whether nothing needs attention; determines the exit status.
    pub(crate) good: bool,
    /// What has happened and what to do if the text cannot be written and is not shown again.
    pub(crate) if_lost: Option<String>,
}

impl From<String> for Answer {
    fn from(text: String) -> Self {
        Self::new(text, true)
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

/// Reports a problem. Unlike `eprintln!`, does not panic if nobody reads it.
pub(crate) fn complain(problem: impl fmt::Display) {
    let _ = writeln!(io::stderr(), "chatmail: {problem}");
}

/// Whether the output has colour: on a terminal that knows it, unless the variable `NO_COLOR` of <https://no-color.org>
/// has a value.
pub(crate) fn wants_colour() -> bool {
    let (refused, kind) = (env::var_os("NO_COLOR"), env::var_os("TERM"));
    colour(io::stdout().is_terminal(), refused.as_deref(), kind.as_deref())
}

fn colour(terminal: bool, refused: Option<&OsStr>, kind: Option<&OsStr>) -> bool {
    terminal && refused.is_none_or(OsStr::is_empty) && kind != Some(OsStr::new("dumb"))
}

/// Width of the column before the values of [`entry`].
const INDENT: usize = 16;

/// A line with a name and a value.
pub(crate) fn entry(name: &str, value: &str) -> String {
    format!("{name:15} {}\n", wrapped(value, INDENT))
}

/// Columns of a table that can precede a text which is broken below itself.
const COLUMNS: usize = 50;

/// Breaks the lines that are too wide for a terminal, below the last column of the table that they belong to. A longer
/// word, such as an address, stays whole.
pub(crate) fn folded(text: &str) -> String {
    text.lines().map(|line| fold(line) + "\n").collect()
}

fn fold(line: &str) -> String {
    let letters: Vec<char> = line.chars().collect();
    if letters.len() <= WIDTH {
        return line.to_owned();
    }
    let begin = letters.iter().take_while(|letter| **letter == ' ').count();
    // Columns are two or more spaces apart.
    let start = letters
        .windows(3)
        .take(COLUMNS)
        .rposition(|window| matches!(window, [' ', ' ', letter] if *letter != ' '))
        .map_or(begin, |at| at + 2);
    let (columns, rest) = letters.split_at(start.min(letters.len()));
    let rest: String = rest.iter().collect();
    let longest = rest.split_whitespace().map(|word| word.chars().count()).max();
    let indent = if start + longest.unwrap_or(0) > WIDTH {
        begin + 4
    } else {
        start
    };
    let mut out: String = columns.iter().collect();
    let mut column = start;
    let mut first = true;
    for word in rest.split_whitespace() {
        let length = word.chars().count();
        if column + usize::from(!first) + length > WIDTH && column > indent {
            out.truncate(out.trim_end().len());
            out.push('\n');
            out.push_str(&" ".repeat(indent));
            column = indent;
        } else if !first {
            out.push(' ');
            column += 1;
        }
        out.push_str(word);
        column += length;
        first = false;
    }
    out
}

impl Answer {
    pub(crate) fn new(text: String, good: bool) -> Self {
        Self {
            text,
            good,
            if_lost: None,
        }
    }

    /// Says what to do if nobody gets the text.
    pub(crate) fn if_lost(self, advice: String) -> Self {
        Self {
            if_lost: Some(advice),
            ..self
        }
    }

    /// The output for people of a command that needs no attention.
    pub(crate) fn folded(text: &str) -> Self {
        folded(text).into()
    }
}

/// Snapshots of the output for people.
#[cfg(test)]
pub(crate) mod human {
    use super::WIDTH;

    /// Compares the output of a command with its snapshot, which is named after it. A line may only be wider than a
    /// terminal if it is one word or one quoted text, which are copied.
    pub(crate) fn check(command: &str, text: &str) {
        for line in text.lines().filter(|line| line.chars().count() > WIDTH) {
            let whole = line.trim();
            assert!(
                !whole.contains(' ') || whole.starts_with('"'),
                "{command}: {line}"
            );
        }
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/snapshots");
        insta::with_settings!({
            snapshot_path => folder,
            prepend_module_to_snapshot => false,
            omit_expression => true,
        }, {
            insta::assert_snapshot!(command.replace(' ', "-"), text);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_terminals_that_do_not_refuse_it_get_colour() {
        let xterm = Some(OsStr::new("xterm"));
        assert!(colour(true, None, xterm));
        assert!(colour(true, Some(OsStr::new("")), None));
        assert!(!colour(true, Some(OsStr::new("1")), xterm));
        assert!(!colour(true, None, Some(OsStr::new("dumb"))));
        assert!(!colour(false, None, xterm));
    }

    #[test]
    fn wide_lines_are_broken_below_their_column() {
        assert_eq!(folded("short  line\n"), "short  line\n");
        let reason = "a reason ".repeat(12);
        let row = fold(&format!("{:40}  FAILED: {reason}", "192.0.2.1:443 TLS"));
        let lines: Vec<&str> = row.lines().collect();
        assert!(lines.iter().all(|line| line.chars().count() <= WIDTH), "{row}");
        assert!(
            lines.len() > 1 && lines.iter().skip(1).all(|line| line.starts_with(&" ".repeat(42))),
            "{row}"
        );
        assert_eq!(row.split_whitespace().count(), 3 + 24);

        let sentence = fold(&"word ".repeat(30));
        assert!(
            sentence
                .lines()
                .all(|line| line.starts_with("word") && line.chars().count() <= WIDTH)
        );

        // A word that does not fit beside the columns goes below them.
        let address = format!("{}@chat.example.org", "x".repeat(50));
        let row = fold(&format!(
            "4bQ1  deferred  2025-10-09 08:53 UTC  700 bytes  from {address}"
        ));
        assert!(row.lines().all(|line| line.chars().count() <= WIDTH), "{row}");
        assert!(row.ends_with(&format!("\n    {address}")), "{row}");
        let long = fold(&format!("1  {}", "x".repeat(90)));
        assert_eq!(long.split_whitespace().last().unwrap().len(), 90);
    }
}
