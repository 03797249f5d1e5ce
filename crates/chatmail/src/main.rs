//! The operator's command line. Each command has a module.
mod account;
mod answer;
mod backup;
mod destinations;
mod dial;
mod dns;
mod doctor;
mod invite;
mod mailtest;
mod manual;
mod migrate;
mod ports;
mod program;
mod progress;
mod queue;
mod restore;
mod services;
mod status;
mod status_page;
mod times;
mod tls;
mod unfinished;
mod website;

use std::process::ExitCode;

use anyhow::{Context as _, anyhow};
use chatmail_core::SettingsFile;
use clap::{CommandFactory as _, Parser, Subcommand};

use answer::Answer;

/// Administer a chatmail relay.
#[derive(Parser)]
#[command(version)]
struct Cli {
    #[command(flatten)]
    settings: SettingsFile,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Status(status::Cli),
    Doctor(doctor::Cli),
    /// Test a relay from a client's point of view, alone or together with another one. Runs `mailtest test`.
    #[command(disable_help_flag = true)]
    Test(mailtest::Cli),
    /// Measure the delivery time of messages between relays. Runs `mailtest ping`.
    #[command(disable_help_flag = true)]
    Ping(mailtest::Cli),
    Account(account::Cli),
    Invite(invite::Cli),
    Queue(queue::Cli),
    Destinations(destinations::Cli),
    Dns(dns::Cli),
    Ports(ports::Cli),
    Website(website::Cli),
    Migrate(migrate::Cli),
    #[command(hide = true)]
    Manual(manual::Cli),
    #[command(hide = true)]
    StatusPage(status_page::Cli),
    Backup(backup::Cli),
    Restore(restore::Cli),
}

fn main() -> ExitCode {
    match run(&Cli::parse()) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            answer::complain(format_args!("{error:#}{}", hint(&error)));
            ExitCode::FAILURE
        }
    }
}

fn run(cli: &Cli) -> anyhow::Result<bool> {
    let settings = || anyhow::Ok(cli.settings.load()?);
    let answer = match &cli.command {
        Command::Status(cli) => status::run(cli, &settings()?)?,
        Command::Doctor(doctor) => doctor::run(doctor, &settings()?, &cli.settings.path)?,
        Command::Account(cli) => account::run(cli, &settings()?)?,
        Command::Invite(cli) => invite::run(cli, &settings()?)?,
        Command::Queue(cli) => queue::run(cli)?,
        Command::Destinations(cli) => destinations::run(cli, &settings()?)?,
        Command::Ports(cli) => ports::run(cli, &settings()?)?,
        Command::Dns(cli) => dns::run(cli, &settings()?)?,
        Command::Website(cli) => website::run(cli, &settings()?).map(|()| String::new().into())?,
        Command::Test(cli) => mailtest::run("test", cli)?,
        Command::Ping(cli) => mailtest::run("ping", cli)?,
        Command::Manual(cli) => manual::run(cli, &Cli::command())?,
        Command::StatusPage(page) => status_page::run(page, &settings()?, &cli.settings.path)?,
        Command::Backup(cli) => backup::run(cli, &settings()?)?,
        Command::Restore(cli) => restore::run(cli, &settings()?)?,
        // There may be no relay yet.
        Command::Migrate(cli) => migrate::run(cli, settings)?,
    };
    print(&answer)?;
    Ok(answer.good)
}

/// What to do about an error of the system.
fn hint(error: &anyhow::Error) -> &'static str {
    let mut kinds = error.chain().filter_map(|cause| {
        let errno = cause.downcast_ref::<nix::Error>();
        errno
            .map(|errno| std::io::Error::from(*errno).kind())
            .or_else(|| Some(cause.downcast_ref::<std::io::Error>()?.kind()))
    });
    kinds
        .find_map(|kind| match kind {
            std::io::ErrorKind::PermissionDenied => Some("; run this command as root"),
            std::io::ErrorKind::StorageFull => Some("; free some disk space and run it again"),
            _ => None,
        })
        .unwrap_or_default()
}

/// Unlike `println!`, returns an error if the output cannot be written, for example to a full disk. A closed pipe, as
/// after `head`, is only an error if the output is not shown again.
fn print(answer: &Answer) -> anyhow::Result<()> {
    use std::io::Write as _;
    let mut out = std::io::stdout().lock();
    let result = out.write_all(answer.text.as_bytes()).and_then(|()| out.flush());
    match (result, &answer.if_lost) {
        // Without the error as its source, so that no hint says to run the command again.
        (Err(error), Some(advice)) => Err(anyhow!("cannot write the output: {error}; {advice}")),
        (Err(error), None) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        (result, _) => result.context("cannot write the output"),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Commands that change something. Everything else reports, except for [`SILENT`] ones.
    const ACTS: [&str; 12] = [
        "account ban",
        "account create",
        "account delete",
        "account unban",
        "backup init",
        "backup run",
        "invite revoke",
        "migrate export",
        "migrate import",
        "queue drop",
        "queue retry",
        "restore",
    ];

    /// Commands that only write files, and those that run another program.
    const SILENT: [&str; 5] = ["manual", "ping", "status-page", "test", "website"];

    /// The commands that do something themselves, with their names and whether they know `--json`.
    fn commands() -> Vec<(String, bool)> {
        let mut found = Vec::new();
        let mut waiting = vec![(String::new(), Cli::command())];
        while let Some((name, command)) = waiting.pop() {
            // `chatmail queue` lists, and `chatmail migrate FILE` converts, although they have subcommands.
            let json = command
                .get_arguments()
                .any(|argument| argument.get_id() == "json");
            if json || command.get_subcommands().next().is_none() {
                found.push((name.clone(), json));
            }
            for inner in command.get_subcommands() {
                let name = format!("{name} {}", inner.get_name()).trim_start().to_owned();
                waiting.push((name, inner.clone()));
            }
        }
        found
    }

    #[test]
    fn errors_without_rights_say_who_has_them() {
        let io = anyhow::Error::from(std::io::Error::from(std::io::ErrorKind::PermissionDenied));
        for error in [io, nix::Error::EPERM.into(), nix::Error::EACCES.into()] {
            assert_eq!(hint(&error.context("cannot act")), "; run this command as root");
        }
        assert_eq!(hint(&nix::Error::ENOENT.into()), "");
    }

    #[test]
    fn every_command_that_reports_prints_json_and_every_text_has_a_snapshot() {
        let commands = commands();
        let snapshots = Path::new(env!("CARGO_MANIFEST_DIR")).join("snapshots");
        let mut texts = 0;
        for (name, json) in &commands {
            let (acts, silent) = (ACTS.contains(&name.as_str()), SILENT.contains(&name.as_str()));
            assert!(
                acts || silent || *json,
                "`chatmail {name}` reports without --json"
            );
            // `chatmail queue` is `chatmail queue list`.
            if silent || name == "queue" {
                continue;
            }
            texts += 1;
            let file = snapshots.join(format!("{}.snap", name.replace(' ', "-")));
            assert!(file.exists(), "{} does not exist", file.display());
        }
        assert!(texts >= 26, "{commands:?}");
        let gone: Vec<_> = ACTS
            .iter()
            .chain(&SILENT)
            .filter(|act| !commands.iter().any(|(name, _)| name == *act))
            .collect();
        assert!(gone.is_empty(), "{gone:?} are no commands");
    }
}
