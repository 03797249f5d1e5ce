//! What a benchmark prints and leaves in docs/performance.md.

use std::fmt::Display;

use super::document;
use super::target::Target;

/// The lines and targets of a benchmark.
#[derive(Debug)]
pub(super) struct Report {
    /// Title of its section in docs/performance.md.
    title: &'static str,
    text: String,
    targets: Vec<Target>,
}

impl Report {
    pub(super) fn new(title: &'static str) -> Self {
        Self {
            title,
            text: String::new(),
            targets: Vec::new(),
        }
    }

    /// Prints a line and keeps it.
    pub(super) fn line(&mut self, line: impl Display) {
        let line = line.to_string();
        for line in line.split('\n') {
            println!("{}", line.trim_end());
            self.text.push_str(line.trim_end());
            self.text.push('\n');
        }
    }

    /// Adds a target; [`Self::finish`] prints all of them.
    pub(super) fn target(&mut self, target: Target) {
        self.targets.push(target);
    }

    /// Prints the targets and writes the section of docs/performance.md.
    pub(super) fn finish(mut self) -> anyhow::Result<Vec<Target>> {
        if !self.targets.is_empty() {
            self.line("");
        }
        let targets = std::mem::take(&mut self.targets);
        for target in &targets {
            self.line(target);
        }
        document::write(self.title, &self.text)?;
        Ok(targets)
    }
}
