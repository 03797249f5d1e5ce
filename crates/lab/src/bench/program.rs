//! Programs from the same build as this one, and what they use.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;
use std::{fs, io};

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, SysconfVar, sysconf};
use tokio::process::{Child, Command};

/// How long a program may take to stop.
const PATIENCE: Duration = Duration::from_secs(60);

/// Path of a program from the same build as this one.
pub(super) fn path(name: &str) -> io::Result<PathBuf> {
    Ok(std::env::current_exe()?.with_file_name(name))
}

/// Peak memory of a running process in bytes, or `None` if it has ended.
pub(super) fn peak_memory(process: u32) -> Option<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim_end().parse().ok()?;
    Some(kibibytes * 1024)
}

/// CPU time of a process.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Cpu {
    pub(super) user: Duration,
    pub(super) system: Duration,
}

impl Cpu {
    pub(super) fn total(self) -> Duration {
        self.user + self.system
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            user: self.user.saturating_sub(earlier.user),
            system: self.system.saturating_sub(earlier.system),
        }
    }
}

/// A running program; killed when dropped.
pub(super) struct Program {
    child: Child,
}

impl Program {
    /// Starts a program from the same build as this one.
    pub(super) fn start<A: AsRef<OsStr>>(name: &str, arguments: &[A]) -> anyhow::Result<Self> {
        let path = path(name)?;
        let child = Command::new(&path)
            .args(arguments)
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .with_context(|| {
                format!(
                    "cannot run {}; `cargo build --release --workspace` builds it",
                    path.display()
                )
            })?;
        Ok(Self { child })
    }

    /// Peak memory in bytes, or `None` if it has ended.
    pub(super) fn peak_memory(&self) -> Option<u64> {
        peak_memory(self.child.id()?)
    }

    /// CPU time so far.
    pub(super) fn cpu(&self) -> anyhow::Result<Cpu> {
        let pid = self.child.id().context("the program has ended by itself")?;
        let ticks = sysconf(SysconfVar::CLK_TCK)?.context("no clock ticks")?;
        cpu(&fs::read_to_string(format!("/proc/{pid}/stat"))?, ticks)
            .with_context(|| format!("/proc/{pid}/stat has no CPU time"))
    }

    /// Stops it with SIGTERM.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        let pid = self.child.id().context("the program has ended by itself")?;
        kill(Pid::from_raw(pid.try_into()?), Signal::SIGTERM)?;
        match tokio::time::timeout(PATIENCE, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                ensure!(status.success(), "the program failed: {status}");
                Ok(())
            }
            Err(_) => bail!("the program does not stop"),
        }
    }
}

/// Fields 14 and 15 of `/proc/PID/stat` (proc(5)).
fn cpu(stat: &str, ticks_per_second: i64) -> Option<Cpu> {
    // The second field, the name, can contain spaces and parentheses.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let mut next = || -> Option<Duration> {
        let ticks: f64 = fields.next()?.parse().ok()?;
        Duration::try_from_secs_f64(ticks / ticks_per_second as f64).ok()
    };
    Some(Cpu {
        user: next()?,
        system: next()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_time_follows_the_name() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 100 0 0 0 250 50 0 0 20 0 1 0 100 1 1";
        let cpu = cpu(stat, 100).unwrap();
        assert_eq!(cpu.user, Duration::from_millis(2500));
        assert_eq!(cpu.system, Duration::from_millis(500));
    }

    #[test]
    fn memory_of_this_process_is_known() {
        assert!(peak_memory(std::process::id()).unwrap() > 1024 * 1024);
    }
}
