//! Progress display.

use std::fmt::{Display, Write as _};
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use nix::sys::resource::{UsageWho, getrusage};
use nix::sys::time::TimeVal;

/// Environment variable with the path of a file to which each phase appends a line for measurements: name, seconds, and
/// seconds of CPU time.
pub const RECORD: &str = "CHATMAIL_LAB_PHASES";

/// How often the line on a terminal is redrawn.
const TICK: Duration = Duration::from_secs(1);

/// Prints phases to standard error. On a terminal, one line shows the current phases with elapsed and expected time;
/// otherwise, each phase prints a line at its start and one at its end.
#[derive(Debug, Clone)]
pub struct Progress {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    style: Style,
    active: Mutex<Vec<Active>>,
    changed: Condvar,
    record: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Style {
    Terminal,
    Lines,
    Silent,
}

/// A current phase.
#[derive(Debug, Clone)]
struct Active {
    number: u64,
    name: String,
    started: Instant,
    expected: Option<Duration>,
}

/// A current phase, until [`Phase::done`] or [`Phase::failed`] ends it.
#[derive(Debug)]
pub struct Phase {
    shared: Arc<Shared>,
    number: u64,
    cpu: Duration,
}

impl Progress {
    /// Chooses the style by whether standard error is a terminal.
    #[must_use]
    pub fn new() -> Self {
        Self::with(if std::io::stderr().is_terminal() {
            Style::Terminal
        } else {
            Style::Lines
        })
    }

    /// Prints nothing.
    #[must_use]
    pub fn silent() -> Self {
        Self::with(Style::Silent)
    }

    fn with(style: Style) -> Self {
        let shared = Arc::new(Shared {
            style,
            active: Mutex::default(),
            changed: Condvar::new(),
            record: std::env::var_os(RECORD).map(PathBuf::from),
        });
        if style == Style::Terminal {
            let shared = Arc::downgrade(&shared);
            std::thread::spawn(move || {
                while let Some(shared) = shared.upgrade() {
                    shared.draw_until_changed();
                }
            });
        }
        Self { shared }
    }

    /// Prints a line that is not about a phase.
    pub fn say(&self, what: impl Display) {
        let active = self.shared.lock();
        self.shared.print(&active, &what.to_string());
    }

    /// Records CPU time that no phase includes, if phases are recorded.
    pub fn record_cpu(&self, name: &str, cpu: Duration) {
        if let Some(path) = &self.shared.record {
            let _ = record(path, name, Duration::ZERO, cpu);
        }
    }

    /// Begins a phase. `expected` is its approximate duration, if known.
    #[must_use]
    pub fn phase(&self, name: &str, expected: Option<Duration>) -> Phase {
        let mut active = self.shared.lock();
        let number = active.iter().map(|phase| phase.number + 1).max().unwrap_or(0);
        let phase = Active {
            number,
            name: name.to_owned(),
            started: Instant::now(),
            expected,
        };
        if self.shared.style == Style::Lines {
            self.shared.print(&active, &beginning(&phase));
        }
        active.push(phase);
        self.shared.changed.notify_all();
        Phase {
            shared: Arc::clone(&self.shared),
            number,
            cpu: cpu_time().unwrap_or_default(),
        }
    }
}

impl Default for Progress {
    fn default() -> Self {
        Self::new()
    }
}

impl Phase {
    /// Ends the phase as successful. `cpu` is the CPU time that it used; by default, that of this process and its ended
    /// children during the phase.
    pub fn done(self, cpu: Option<Duration>) {
        let cpu = cpu.unwrap_or_else(|| cpu_time().unwrap_or_default().saturating_sub(self.cpu));
        self.end("done", Some(cpu));
    }

    /// Ends the phase as failed.
    pub fn failed(self) {
        self.end("failed", None);
    }

    fn end(self, outcome: &str, cpu: Option<Duration>) {
        let mut active = self.shared.lock();
        let Some(index) = active.iter().position(|phase| phase.number == self.number) else {
            return;
        };
        let phase = active.remove(index);
        let elapsed = phase.started.elapsed();
        self.shared.print(&active, &ending(&phase.name, outcome, elapsed));
        if let (Some(path), Some(cpu)) = (&self.shared.record, cpu) {
            let _ = record(path, &phase.name, elapsed, cpu);
        }
    }
}

/// If an operation fails, `?` drops its phase.
impl Drop for Phase {
    fn drop(&mut self) {
        let mut active = self.shared.lock();
        let before = active.len();
        active.retain(|phase| phase.number != self.number);
        if active.len() < before && self.shared.style == Style::Terminal {
            let _ = write!(std::io::stderr(), "{CLEAR}{}", status(&active, Instant::now()));
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Vec<Active>> {
        self.active.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Prints a permanent line above the one that shows the current phases.
    fn print(&self, active: &[Active], line: &str) {
        let _ = match self.style {
            Style::Silent => Ok(()),
            Style::Lines => writeln!(std::io::stderr(), "{line}"),
            Style::Terminal => write!(
                std::io::stderr(),
                "{CLEAR}{line}\n{}",
                status(active, Instant::now())
            ),
        };
    }

    /// Draws the line that shows the current phases, and waits until it has to be redrawn.
    fn draw_until_changed(&self) {
        let active = self.lock();
        if !active.is_empty() {
            let _ = write!(std::io::stderr(), "{CLEAR}{}", status(&active, Instant::now()));
        }
        drop(self.changed.wait_timeout(active, TICK));
    }
}

/// Moves the cursor to the start of the line and clears the line.
const CLEAR: &str = "\r\x1b[2K";

/// The line that a terminal shows during phases. Wrapping is off, because a wrapped line could not be cleared.
fn status(active: &[Active], now: Instant) -> String {
    if active.is_empty() {
        return String::new();
    }
    let parts: Vec<String> = active
        .iter()
        .map(|phase| {
            let mut part = format!(
                "{}: {}",
                phase.name,
                clock(now.saturating_duration_since(phase.started))
            );
            if let Some(expected) = phase.expected {
                let _ = write!(part, " of about {}", clock(expected));
            }
            part
        })
        .collect();
    format!("\x1b[?7l{}\x1b[?7h", parts.join("  |  "))
}

/// The line at the start of a phase, if standard error is not a terminal.
fn beginning(phase: &Active) -> String {
    match phase.expected {
        Some(expected) => format!("        {} (about {})", phase.name, clock(expected)),
        None => format!("        {}", phase.name),
    }
}

/// The line at the end of a phase.
fn ending(name: &str, outcome: &str, elapsed: Duration) -> String {
    format!("{:>7} {name}: {outcome}", clock(elapsed))
}

/// Formats a duration: minutes and seconds from one minute on, tenths of a second below ten seconds.
fn clock(time: Duration) -> String {
    let seconds = time.as_secs();
    if seconds < 10 {
        format!("{:.1} s", time.as_secs_f64())
    } else if seconds < 60 {
        format!("{seconds} s")
    } else {
        format!("{}:{:02}", seconds / 60, seconds % 60)
    }
}

/// CPU time of this process and of its children that have ended.
///
/// # Errors
///
/// If getrusage(2) fails.
pub fn cpu_time() -> anyhow::Result<Duration> {
    let mut sum = Duration::ZERO;
    for who in [UsageWho::RUSAGE_SELF, UsageWho::RUSAGE_CHILDREN] {
        let usage = getrusage(who).context("cannot read the CPU time")?;
        sum += duration(usage.user_time()) + duration(usage.system_time());
    }
    Ok(sum)
}

fn duration(time: TimeVal) -> Duration {
    let micros = time
        .tv_sec()
        .saturating_mul(1_000_000)
        .saturating_add(time.tv_usec());
    Duration::from_micros(u64::try_from(micros).unwrap_or(0))
}

/// Appends a line to a record of phases.
fn record(path: &std::path::Path, name: &str, elapsed: Duration, cpu: Duration) -> anyhow::Result<()> {
    let file = std::fs::OpenOptions::new().create(true).append(true).open(path);
    let line = format!("{name}\t{:.3}\t{:.3}\n", elapsed.as_secs_f64(), cpu.as_secs_f64());
    file.and_then(|mut file| file.write_all(line.as_bytes()))
        .with_context(|| format!("cannot write {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_terminal_shows_what_is_under_way_in_one_line() {
        let now = Instant::now();
        let active = |number, name: &str, seconds, expected| Active {
            number,
            name: name.to_owned(),
            started: now.checked_sub(Duration::from_secs(seconds)).unwrap(),
            expected,
        };
        let phases = [
            active(
                0,
                "Compiling the lab and the services",
                63,
                Some(Duration::from_secs(90)),
            ),
            active(1, "Installing Debian trixie for the relays", 5, None),
        ];
        insta::assert_snapshot!(
            status(&phases, now).escape_debug(),
            @r"\u{1b}[?7lCompiling the lab and the services: 1:03 of about 1:30  |  Installing Debian trixie for the relays: 5.0 s\u{1b}[?7h"
        );
        assert_eq!(status(&[], now), "");
    }

    #[test]
    fn elsewhere_each_phase_has_a_line_at_both_ends() {
        let phase = Active {
            number: 0,
            name: "Starting the relays".to_owned(),
            started: Instant::now(),
            expected: Some(Duration::from_secs(10)),
        };
        assert_eq!(beginning(&phase), "        Starting the relays (about 10 s)");
        assert_eq!(
            ending(&phase.name, "done", Duration::from_millis(8_640)),
            "  8.6 s Starting the relays: done"
        );
        assert_eq!(clock(Duration::from_secs(725)), "12:05");
    }

    #[test]
    fn a_phase_that_is_left_early_is_not_shown_any_longer() {
        let progress = Progress::silent();
        drop(progress.phase("one", None));
        progress.phase("two", None).done(None);
        assert!(progress.shared.lock().is_empty());
    }
}
