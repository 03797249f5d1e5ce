//! A real process under an imitated systemd: readiness, drain and signals.
#![allow(
    clippy::indexing_slicing,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

use std::io::{ErrorKind, Read, Write};
use std::os::unix::net::{UnixDatagram, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::time::Duration;

struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Cargo builds examples for a test run, but does not tell their folder.
fn echo_service() -> PathBuf {
    let here = std::env::current_exe().unwrap();
    here.ancestors().nth(2).unwrap().join("examples/echo-service")
}

fn start(dir: &Path, notify: &Path) -> Running {
    // Only the process whose ID is in the environment notifies the watchdog.
    let child = Command::new("/bin/sh")
        .args(["-c", r#"WATCHDOG_PID=$$ exec "$0" "$@""#])
        .arg(echo_service())
        .arg("--settings")
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../chatmail-core/testdata/settings.json"
        ))
        .env("ECHO_SOCKET", dir.join("echo.socket"))
        .env("NOTIFY_SOCKET", notify)
        .env("WATCHDOG_USEC", "200000")
        .spawn()
        .unwrap();
    Running(child)
}

fn wait_for(socket: &UnixDatagram, wanted: &str) {
    let mut buffer = [0; 1024];
    loop {
        let length = match socket.recv(&mut buffer) {
            Ok(length) => length,
            Err(error) if error.kind() == ErrorKind::Interrupted => continue,
            Err(error) => panic!("no {wanted}: {error}"),
        };
        if String::from_utf8_lossy(&buffer[..length]).contains(wanted) {
            return;
        }
    }
}

#[test]
fn a_service_is_ready_when_it_listens_and_finishes_its_work_after_sigterm() {
    let dir = tempfile::tempdir().unwrap();
    let notify = dir.path().join("notify");
    let events = UnixDatagram::bind(&notify).unwrap();
    events.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
    let mut service = start(dir.path(), &notify);

    wait_for(&events, "READY=1");
    wait_for(&events, "WATCHDOG=1");
    let socket = dir.path().join("echo.socket");
    let mut connection = UnixStream::connect(&socket).unwrap();
    connection.write_all(b"a").unwrap();
    let mut echo = [0; 1];
    connection.read_exact(&mut echo).unwrap();

    let pid = nix::unistd::Pid::from_raw(service.0.id().try_into().unwrap());
    nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGTERM).unwrap();
    wait_for(&events, "STOPPING=1");
    connection.write_all(b"b").unwrap();
    connection.read_exact(&mut echo).unwrap();
    assert_eq!(&echo, b"b", "an open connection is served to its end");
    drop(connection);
    assert!(service.0.wait().unwrap().success());
}

#[test]
fn a_wrong_settings_file_ends_the_start_with_one_line() {
    let output = Command::new(echo_service())
        .args(["--settings", "/nonexistent/settings.json"])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    assert!(
        text.contains("cannot read the settings file /nonexistent/settings.json"),
        "{text}"
    );
}
