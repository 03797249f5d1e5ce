//! `cargo lab up`, `shell`, `logs` and `down`.

use std::os::unix::process::CommandExt as _;
use std::process::{Command, ExitCode};

use anyhow::Context as _;

use super::{Lab, Paths, Progress, container, lock, pointers, prerequisites, start};

/// Arguments of `cargo lab up`.
#[derive(Debug, clap::Args)]
pub(crate) struct Up {
    /// Prints the addresses of the relays as JSON
    #[arg(long)]
    json: bool,
    /// Leaves the machines running for inspection if the relays do not start
    #[arg(long)]
    keep: bool,
}

/// Arguments of `cargo lab shell`.
#[derive(Debug, clap::Args)]
pub(crate) struct Shell {
    /// Machine: a, b, c, d, e or dns
    relay: String,
    /// Command to run instead of a shell
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    command: Vec<String>,
}

/// Arguments of `cargo lab logs`.
#[derive(Debug, clap::Args)]
pub(crate) struct Logs {
    /// Machine: a, b, c, d, e or dns
    relay: String,
    /// Continues with new messages as they are logged
    #[arg(short, long)]
    follow: bool,
    /// Shows only this unit
    unit: Option<String>,
}

/// Starts the lab and prints how to use it.
pub(crate) async fn up(arguments: &Up) -> anyhow::Result<ExitCode> {
    let lab = Lab::start(&Progress::new(), arguments.keep).await?;
    if arguments.json {
        println!("{}", serde_json::to_string_pretty(lab.topology())?);
    } else {
        println!("\n{}", pointers::of(lab.topology(), &lab.paths.resolv_conf()));
    }
    Ok(ExitCode::SUCCESS)
}

/// Replaces this process with a shell or a command in a machine.
pub(crate) fn shell(arguments: &Shell) -> anyhow::Result<ExitCode> {
    let command = match arguments.command.as_slice() {
        [] => vec!["bash".to_owned(), "--login".to_owned()],
        given => given.to_vec(),
    };
    become_in(&arguments.relay, &command)
}

/// Replaces this process with journalctl in a machine.
pub(crate) fn logs(arguments: &Logs) -> anyhow::Result<ExitCode> {
    let mut command = vec!["journalctl".to_owned(), "--no-hostname".to_owned()];
    command.extend(arguments.follow.then(|| "--follow".to_owned()));
    command.extend(arguments.unit.as_ref().map(|unit| format!("--unit={unit}")));
    become_in(&arguments.relay, &command)
}

/// Replaces this process with a command in a machine.
fn become_in(machine: &str, command: &[String]) -> anyhow::Result<ExitCode> {
    let leader = Lab::attach()?.leader(machine)?;
    let terminal = format!(
        "TERM={}",
        std::env::var("TERM").unwrap_or_else(|_| "dumb".to_owned())
    );
    let line = container::enter(leader, &[&terminal]);
    let (program, rest) = line.split_first().context("nothing to run")?;
    let error = Command::new(program).args(rest).args(command).exec();
    Err(error).context("cannot run nsenter")
}

/// Stops the lab, even if only parts of it are running.
pub(crate) async fn down() -> anyhow::Result<ExitCode> {
    prerequisites::check_privileges()?;
    let paths = Paths::from_environment()?;
    let _lock = lock(&paths)?;
    start::end(&paths)?;
    Ok(ExitCode::SUCCESS)
}
