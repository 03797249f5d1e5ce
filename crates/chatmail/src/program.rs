//! Programs of the system, which hang if the service that they ask hangs.

use std::ffi::OsStr;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// Longest wait for a program that only asks a service.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);

/// A program that ends with this process, however that ends, so that it does not go on with half of a work.
pub(crate) fn attached(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM", "--"]).arg(program);
    command
}

/// Runs a program without input, and ends it after [`PATIENCE`].
pub(crate) fn output(command: &mut Command) -> anyhow::Result<Output> {
    output_within(command, PATIENCE)
}

fn output_within(command: &mut Command, patience: Duration) -> anyhow::Result<Output> {
    let name = command.get_program().to_string_lossy().into_owned();
    let child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .with_context(|| format!("cannot run {name}"))?;
    let id = child.id();
    let (sender, receiver) = mpsc::sync_channel(1);
    // Ends with the program, at the latest with this process.
    thread::spawn(move || sender.send(child.wait_with_output()));
    let Ok(done) = receiver.recv_timeout(patience) else {
        // Until its output is taken, its number belongs to it.
        if let Ok(id) = i32::try_from(id) {
            let _ = kill(Pid::from_raw(id), Signal::SIGKILL);
        }
        bail!("{name} does not answer within {} s", patience.as_secs());
    };
    done.with_context(|| format!("cannot run {name}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended() {
        let echo = output(Command::new("echo").arg("x")).unwrap();
        assert_eq!(echo.stdout, b"x\n");
        let hung = output_within(Command::new("sleep").arg("60"), Duration::from_millis(50));
        assert!(
            hung.unwrap_err()
                .to_string()
                .starts_with("sleep does not answer within"),
            "a program is waited for without end"
        );
        let missing = output(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(missing.to_string().contains("cannot run /nonexistent/program"));
    }
}
