//! What long work does now, for a person at a terminal. Scripts and logs see only the result.

use std::io::{self, IsTerminal as _, Write as _};
use std::process::{Command, Stdio};

/// Whether somebody watches.
pub(crate) fn is_watched() -> bool {
    io::stderr().is_terminal()
}

/// Says what begins now.
pub(crate) fn step(what: impl std::fmt::Display) {
    if is_watched() {
        // Nobody is left to whom an error could be reported.
        let _ = writeln!(io::stderr(), "{what} …");
    }
}

/// Lets a program with these arguments show its own progress.
pub(crate) fn show(command: &mut Command, arguments: &[&str]) {
    if is_watched() {
        command.args(arguments).stdout(Stdio::from(io::stderr()));
    }
}
