//! Output of the programs.

use std::fmt;
use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use chatmail_core::maildir::Problem;
use chatmail_core::replace::Replacement;

/// Writes lines to standard error, from any thread. Account names appear only in details, which are off by default, and
/// in problems, which nobody could find without them.
#[derive(Debug, Default)]
pub struct Log {
    verbose: bool,
    problems: AtomicU64,
}

impl Log {
    /// A log that prints details only if `verbose`.
    pub fn new(verbose: bool) -> Self {
        Self {
            verbose,
            problems: AtomicU64::new(0),
        }
    }

    /// Prints what was done and why, if details are on.
    pub fn detail(&self, line: impl FnOnce() -> String) {
        if self.verbose {
            self.line(format_args!("{}", line()));
        }
    }

    /// Prints a problem; the program continues.
    pub fn problem(&self, problem: &Problem) {
        self.problems.fetch_add(1, Ordering::Relaxed);
        self.line(format_args!("{problem}"));
    }

    /// Prints a line.
    pub fn line(&self, line: fmt::Arguments<'_>) {
        // Continue if standard error is closed.
        let _ = writeln!(io::stderr().lock(), "{line}");
    }

    /// Number of problems so far.
    pub fn problems(&self) -> u64 {
        self.problems.load(Ordering::Relaxed)
    }

    /// Success, unless there were problems.
    pub fn exit_code(&self) -> ExitCode {
        match self.problems() {
            0 => ExitCode::SUCCESS,
            _ => ExitCode::FAILURE,
        }
    }
}

/// Ends a program: an error is one line on standard error.
pub fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        let _ = writeln!(io::stderr().lock(), "{error:#}");
        ExitCode::FAILURE
    })
}

/// Writes a file atomically, readable by everybody.
pub fn write_atomic(path: &Path, content: &str) -> Result<(), Problem> {
    Replacement::with_mode(0o644)
        .write(path, content.as_bytes())
        .map_err(|source| Problem::new(path, source))
}

/// Converts a time to seconds of Unix time; zero for earlier times.
pub fn unix_seconds(time: SystemTime) -> i64 {
    i64::try_from(chatmail_core::unix_seconds(time)).unwrap_or_default()
}

/// Formats a second of Unix time as date and time in UTC.
pub fn utc(second: i64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day] [hour]:[minute]:[second] UTC");
    time::OffsetDateTime::from_unix_timestamp(second)
        .ok()
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| format!("{second} s"))
}

/// Formats a second of Unix time as a day in UTC.
pub fn utc_day(second: i64) -> String {
    let format = time::macros::format_description!("[year]-[month]-[day]");
    time::OffsetDateTime::from_unix_timestamp(second)
        .ok()
        .and_then(|time| time.format(&format).ok())
        .unwrap_or_else(|| format!("{second} s"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_utc() {
        assert_eq!(utc(1_800_000_000), "2027-01-15 08:00:00 UTC");
        assert_eq!(utc_day(0), "1970-01-01");
        assert_eq!(utc(i64::MAX), "9223372036854775807 s");
    }

    #[test]
    fn an_error_names_the_file() {
        let dir = tempfile::tempdir().unwrap();
        let lost = write_atomic(&dir.path().join("none/metrics"), "x").unwrap_err();
        assert!(lost.to_string().contains("none/metrics"), "{lost}");
    }
}
