//! Prints the results for people and as JSON.

use std::fmt::Write as _;

use serde::Serialize;

use super::verdict::{State, Verdict};
use crate::answer::wrapped;

/// Width of the columns before the text.
const INDENT: usize = 20;

/// One line of the result.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Line {
    check: &'static str,
    state: State,
    text: String,
    /// What to do.
    advice: Option<String>,
}

impl Line {
    pub(super) fn is_failure(&self) -> bool {
        self.state == State::Failed
    }
}

/// The lines of a check.
pub(super) fn lines(check: &'static str, verdict: Verdict) -> Vec<Line> {
    let line = |state, text, advice| Line {
        check,
        state,
        text,
        advice,
    };
    match verdict {
        Verdict::Well(text) => vec![line(State::Ok, text, None)],
        Verdict::Skipped(text) => vec![line(State::Skipped, text, None)],
        Verdict::Found(findings) => findings
            .into_iter()
            .map(|finding| line(finding.state, finding.text, Some(finding.advice)))
            .collect(),
    }
}

pub(super) fn json(domain: &str, lines: &[Line]) -> serde_json::Value {
    serde_json::json!({
        "domain": domain,
        "ok": !lines.iter().any(Line::is_failure),
        "checks": lines,
    })
}

pub(super) fn text(lines: &[Line], colour: bool) -> String {
    let mut text = String::new();
    for line in lines {
        let (word, code) = match line.state {
            State::Ok => ("ok", "32"),
            State::Note => ("note", "33"),
            State::Skipped => ("skipped", "2"),
            State::Failed => ("FAILED", "1;31"),
        };
        let padded = format!("{word:8}");
        let word = if colour {
            format!("\x1b[{code}m{padded}\x1b[0m")
        } else {
            padded
        };
        // Other servers choose parts of the text.
        let mut whole: String = line.text.chars().filter(|c| !c.is_control()).collect();
        if let Some(advice) = &line.advice {
            let _ = write!(whole, ": {}", advice.replace(char::is_control, " "));
        }
        let _ = writeln!(
            text,
            "{word}{:width$}{}",
            line.check,
            wrapped(&whole, INDENT),
            width = INDENT - 8
        );
    }
    let failed = lines.iter().filter(|line| line.is_failure()).count();
    let _ = match failed {
        0 => writeln!(text, "All is well."),
        1 => writeln!(text, "1 problem needs attention."),
        n => writeln!(text, "{n} problems need attention."),
    };
    text
}

#[cfg(test)]
mod tests {
    use super::super::verdict::{failed, note};
    use super::*;

    fn sample() -> Vec<Line> {
        [
            ("units", Verdict::Well("22 units are well".to_owned())),
            ("clock", Verdict::Skipped("this system does not tell".to_owned())),
            (
                "reverse-dns",
                Verdict::Found(vec![
                    failed(
                        "192.0.2.1 has no name",
                        "ask the provider to set the PTR record of this address to chat.example.org",
                    ),
                    failed("2001:db8::1 has no name", "ask the provider to set it"),
                ]),
            ),
            (
                "caa",
                Verdict::Found(vec![note("no CAA record\u{1b}[31m", "publish one")]),
            ),
        ]
        .into_iter()
        .flat_map(|(name, verdict)| lines(name, verdict))
        .collect()
    }

    #[test]
    fn output_for_people_fits_80_columns() {
        let text = text(&sample(), false);
        crate::answer::human::check("doctor", &text);
    }

    #[test]
    fn colour_is_for_terminals_and_other_servers_cannot_set_it() {
        let plain = text(&sample(), false);
        assert!(!plain.contains('\u{1b}'));
        let coloured = text(&sample(), true);
        assert!(
            coloured.contains("\u{1b}[1;31mFAILED  \u{1b}[0mreverse-dns"),
            "{coloured}"
        );
    }

    #[test]
    fn output_for_programs() {
        insta::assert_snapshot!(format!("{:#}", json("chat.example.org", &sample())));
    }
}
