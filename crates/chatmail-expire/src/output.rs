//! Output of the programs.

use std::fmt;
use std::io::{self, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use chatmail_core::maildir::Problem;

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
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    let write = || {
        let mut file = tempfile::Builder::new()
            .prefix(".metrics-")
            .suffix(".tmp")
            .tempfile_in(folder)?;
        file.write_all(content.as_bytes())?;
        file.as_file()
            .set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.as_file().sync_all()?;
        file.persist(path)?;
        Ok(())
    };
    write().map_err(|source: io::Error| Problem::new(path, source))
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
    fn a_file_is_replaced_whole_and_readable() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("metrics");
        write_atomic(&path, "one\n").unwrap();
        write_atomic(&path, "two\n").unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "two\n");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(
            dir.path().read_dir().unwrap().count(),
            1,
            "no temporary file is left"
        );
        let lost = write_atomic(&dir.path().join("none/metrics"), "x").unwrap_err();
        assert!(lost.to_string().contains("none/metrics"), "{lost}");
    }
}
