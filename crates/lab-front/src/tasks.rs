//! Runs programs in parallel before the lab starts. Their output goes to files, and is printed if they fail.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::wait::{Id, WaitPidFlag, WaitStatus, waitid};

use crate::progress::{Phase, Progress, cpu_time};

/// Lines of output to print if a program fails.
const TAIL: usize = 40;

/// A program to run once.
pub struct Task {
    name: String,
    expected: Option<Duration>,
    command: Command,
    log: PathBuf,
    output: Option<PathBuf>,
    finish: Box<dyn FnOnce() -> anyhow::Result<()>>,
}

impl Task {
    /// A task that runs `command`, which needs about `cpu_seconds`; 0 if that is not known. Its output goes to `log`.
    #[must_use]
    pub fn new(name: &str, cpu_seconds: u64, command: Command, log: &Path) -> Self {
        // More than a few processors save no time, because some crates wait for others.
        let processors = std::thread::available_parallelism().map_or(1, usize::from).min(4);
        let expected = cpu_seconds / u64::try_from(processors).unwrap_or(1);
        Self {
            name: name.to_owned(),
            expected: (expected > 0).then(|| Duration::from_secs(expected)),
            command,
            log: log.to_owned(),
            output: None,
            finish: Box::new(|| Ok(())),
        }
    }

    /// Redirects standard output to this file.
    #[must_use]
    pub fn output(mut self, path: &Path) -> Self {
        self.output = Some(path.to_owned());
        self
    }

    /// Calls `finish` after the program has succeeded.
    #[must_use]
    pub fn then(mut self, finish: impl FnOnce() -> anyhow::Result<()> + 'static) -> Self {
        self.finish = Box::new(finish);
        self
    }
}

/// A task whose program is running.
struct Running {
    name: String,
    child: Child,
    log: PathBuf,
    phase: Phase,
    finish: Box<dyn FnOnce() -> anyhow::Result<()>>,
}

/// Runs all tasks in parallel and waits for all of them.
///
/// # Errors
///
/// If any of them fails, with the end of its output.
pub fn run(progress: &Progress, tasks: Vec<Task>) -> anyhow::Result<()> {
    let mut running = Vec::new();
    for task in tasks {
        running.push(start(progress, task)?);
    }
    let mut failures = Vec::new();
    while !running.is_empty() {
        let next = ended(&running)?;
        let Running {
            name,
            mut child,
            log,
            phase,
            finish,
        } = running.swap_remove(next);
        // The kernel adds the CPU time of a child when its status is read, so the difference is that of this child.
        let before = cpu_time()?;
        let status = child
            .wait()
            .with_context(|| format!("cannot wait for `{name}`"))?;
        let used = cpu_time()?.saturating_sub(before);
        let result = if status.success() {
            finish()
        } else {
            Err(complaint(&name, status, &log))
        };
        match result {
            Ok(()) => phase.done(Some(used)),
            Err(error) => {
                phase.failed();
                failures.push(format!("{error:#}"));
            }
        }
    }
    if !failures.is_empty() {
        bail!(failures.join("\n"));
    }
    Ok(())
}

fn start(progress: &Progress, task: Task) -> anyhow::Result<Running> {
    let create = |path: &Path| {
        path.parent()
            .map_or(Ok(()), fs::create_dir_all)
            .and_then(|()| File::create(path))
            .with_context(|| format!("cannot write {}", path.display()))
    };
    let log = create(&task.log)?;
    let output = match &task.output {
        Some(path) => create(path)?,
        None => log.try_clone()?,
    };
    let mut command = task.command;
    let phase = progress.phase(&task.name, task.expected);
    let child = command
        .stdin(Stdio::null())
        .stdout(output)
        .stderr(log)
        .spawn()
        .with_context(|| format!("cannot run {}", command.get_program().display()))?;
    Ok(Running {
        name: task.name,
        child,
        log: task.log,
        phase,
        finish: task.finish,
    })
}

/// Waits until one of the programs has ended, without reading its status. If only one is running, the caller waits for
/// it by its process ID, because a process that uses this module can have other children.
fn ended(running: &[Running]) -> anyhow::Result<usize> {
    if running.len() == 1 {
        return Ok(0);
    }
    loop {
        let status = match waitid(Id::All, WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT) {
            Err(nix::errno::Errno::EINTR) => continue,
            status => status.context("cannot wait for programs")?,
        };
        let pid = match status {
            WaitStatus::Exited(pid, _) | WaitStatus::Signaled(pid, ..) => pid.as_raw(),
            other => bail!("waitid returned {other:?}"),
        };
        match running
            .iter()
            .position(|task| i32::try_from(task.child.id()) == Ok(pid))
        {
            Some(index) => return Ok(index),
            None => bail!("an unknown process {pid} has ended"),
        }
    }
}

fn complaint(name: &str, status: ExitStatus, log: &Path) -> anyhow::Error {
    let text = fs::read(log).unwrap_or_default();
    let text = String::from_utf8_lossy(&text);
    anyhow::anyhow!(
        "{name}: {status}; the last lines of {}:\n{}",
        log.display(),
        tail(&text)
    )
}

/// The last lines of an output. If it is cargo's, all lines except those about progress, so that errors are complete.
fn tail(text: &str) -> String {
    let is_progress = |line: &str| {
        [
            "   Compiling ",
            " Downloading ",
            "  Downloaded ",
            "       Fresh ",
            "    Updating ",
            "    Blocking ",
        ]
        .iter()
        .any(|start| line.starts_with(start))
    };
    let cargo = text.lines().any(is_progress);
    let lines: Vec<&str> = text.lines().filter(|line| !is_progress(line)).collect();
    let first = if cargo {
        0
    } else {
        lines.len().saturating_sub(TAIL)
    };
    lines.get(first..).unwrap_or_default().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shell(name: &str, script: &str, folder: &Path) -> Task {
        let mut command = Command::new("sh");
        command.args(["-c", script]);
        Task::new(name, 0, command, &folder.join(name))
    }

    #[test]
    fn tasks_run_side_by_side_and_failures_show_what_was_printed() {
        let folder = std::env::temp_dir().join(format!("lab-front-tasks-{}", std::process::id()));
        let progress = Progress::silent();
        // Each waits for the other, so this ends only when both run at once.
        let meet = |own: &str, other: &str| {
            let folder = folder.display();
            format!(
                "touch {folder}/{own}.up; until [ -e {folder}/{other}.up ]; do sleep 0.01; done; echo {own}"
            )
        };
        fs::create_dir_all(&folder).unwrap();
        let done = folder.join("done");
        let finish = done.clone();
        let one = shell("one", &meet("one", "two"), &folder).then(move || Ok(fs::write(finish, "")?));
        let two = shell(
            "two",
            &format!("{}; echo why >&2; exit 3", meet("two", "one")),
            &folder,
        );
        let output = folder.join("not/yet/there");
        let one = one.output(&output);
        let error = run(&progress, vec![one, two]).unwrap_err().to_string();
        assert_eq!(fs::read_to_string(&output).unwrap(), "one\n");
        assert!(error.starts_with("two: exit status: 3"), "{error}");
        assert!(error.ends_with("\ntwo\nwhy"), "{error}");
        assert!(done.exists(), "the task that succeeds is finished");
        fs::remove_dir_all(&folder).unwrap();
    }

    #[test]
    fn a_compiler_error_is_shown_whole_and_other_output_is_cut() {
        let long: String = (0..100).map(|line| format!("{line}\n")).collect();
        assert_eq!(tail(&long).lines().count(), TAIL);
        let text = format!("   Compiling lab v0.1.0\n{long}error: no");
        assert_eq!(tail(&text).lines().count(), 101);
    }
}
