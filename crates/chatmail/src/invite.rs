//! `chatmail invite`: invitations, with which people get an account.

mod links;
mod show;

use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context as _, bail, ensure};
use chatmail_core::registration::{Id, Invitation, Locked, MAX_INVITATIONS, Register, Token};
use chatmail_core::{Settings, unix_seconds};

use self::links::Links;
use crate::account::as_owner_of;

/// Maximum number of accounts of one invitation.
const MAX_USES: u32 = 10_000;

/// Maximum length of a note in characters.
const MAX_NOTE: usize = 60;

/// Maximum duration of an invitation: ten years.
const MAX_DURATION: u64 = 3650 * DAY;

/// Time within which another process finishes.
const LOCKED: Duration = Duration::from_secs(10);
/// Interval at which the lock is tried.
const LOCK_RETRY: Duration = Duration::from_millis(20);

const HOUR: u64 = 60 * 60;
const DAY: u64 = 24 * HOUR;

/// Create, list and revoke invitations.
#[derive(clap::Args)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Create an invitation, and print its links. They are not shown again.
    Create {
        /// Number of accounts that can be created with it.
        #[arg(long, value_name = "NUMBER", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=i64::from(MAX_USES)))]
        uses: u32,
        /// How long it is valid, in hours, days or weeks: `12h`, `7d`, `2w`.
        #[arg(long, value_name = "TIME", default_value = "7d", value_parser = duration)]
        expires: u64,
        /// A note for `chatmail invite list`.
        #[arg(long, value_name = "TEXT", default_value = "", value_parser = note)]
        note: String,
        /// Also print a QR code for the app.
        #[arg(long, conflicts_with = "json")]
        qr: bool,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// List all invitations, the oldest first.
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Revoke an invitation: nobody can sign up with it any more. Accounts that were created with it stay.
    Revoke {
        /// ID of the invitation, as in the list.
        id: String,
    },
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    let register = Register::new(&settings.registration);
    let folder = &settings.registration.directory;
    let now = unix_seconds(SystemTime::now());
    let text = match &cli.command {
        Command::Create {
            uses,
            expires,
            note,
            qr,
            json,
        } => {
            let token = Token::generate(&mut rand::rng());
            let invitation = Invitation {
                note: Some(note.clone()).filter(|note| !note.is_empty()),
                ..Invitation::new(now, now.saturating_add(*expires), *uses)
            };
            let added = changing(&register, folder, |locked| {
                locked
                    .add(&token, &invitation)
                    .context("cannot store the invitation")
            })?;
            ensure!(
                added,
                "there are already {MAX_INVITATIONS} valid invitations; revoke some with `chatmail invite revoke`"
            );
            let links = Links::new(settings, &token);
            let text = if *json {
                show::json(&show::Created::new(&token.id(), &invitation, &token, &links))?
            } else {
                let picture = if *qr {
                    links.picture(crate::answer::wants_colour())?
                } else {
                    String::new()
                };
                let mode = settings.registration.mode;
                show::created(&token.id(), &invitation, &links) + &picture + &show::reminder(mode)
            };
            return Ok(crate::Answer::from(text).if_lost(unseen(&token.id())));
        }
        Command::List { json } => {
            let all = all(&register, folder)?;
            if *json {
                show::list_json(&all, now)?
            } else {
                show::table(&all, now) + &show::reminder(settings.registration.mode)
            }
        }
        Command::Revoke { id } => {
            let (id, invitation) = changing(&register, folder, |locked| {
                let (id, invitation) = chosen(id, all(&register, folder)?)?;
                locked
                    .remove(&id)
                    .with_context(|| format!("cannot remove the invitation {id}"))?;
                Ok((id, invitation))
            })?;
            show::revoked(&id, &invitation)
        }
    };
    Ok(text.into())
}

/// What has happened although nobody got the output.
fn unseen(id: &Id) -> String {
    format!(
        "the invitation {id} was created, but its links are lost: run `chatmail invite revoke {id}`, and create another one"
    )
}

fn all(register: &Register, folder: &Path) -> anyhow::Result<Vec<(Id, Invitation)>> {
    register
        .list()
        .with_context(|| format!("cannot list the invitations in {}", folder.display()))
}

/// The only invitation whose ID begins like this.
fn chosen(text: &str, all: Vec<(Id, Invitation)>) -> anyhow::Result<(Id, Invitation)> {
    let mut fitting = all
        .into_iter()
        .filter(|(id, _)| !text.is_empty() && id.as_str().starts_with(text));
    let Some(found) = fitting.next() else {
        bail!("there is no invitation {text:?}; `chatmail invite list` shows all of them");
    };
    ensure!(
        fitting.next().is_none(),
        "several invitations begin with {text:?}; type more of the ID, which `chatmail invite list --json` shows whole"
    );
    Ok(found)
}

/// Runs `work` with the rights of the owner of the folder, while nobody else changes it.
fn changing<T>(
    register: &Register,
    folder: &Path,
    work: impl FnOnce(&Locked) -> anyhow::Result<T>,
) -> anyhow::Result<T> {
    as_owner_of(folder, || {
        let begin = Instant::now();
        loop {
            let locked = register
                .try_lock()
                .with_context(|| format!("cannot lock {}", folder.display()))?;
            if let Some(locked) = locked {
                return work(&locked);
            }
            ensure!(
                begin.elapsed() < LOCKED,
                "another process is changing the invitations; try again"
            );
            std::thread::sleep(LOCK_RETRY);
        }
    })
}

/// Parses a duration to seconds.
fn duration(text: &str) -> Result<u64, String> {
    let wrong = || {
        format!(
            "expected hours, days or weeks up to {} days, such as `12h`, `7d` or `2w`",
            MAX_DURATION / DAY
        )
    };
    let (number, unit) = text
        .split_at_checked(text.len().saturating_sub(1))
        .ok_or_else(wrong)?;
    let unit = match unit {
        "h" => HOUR,
        "d" => DAY,
        "w" => 7 * DAY,
        _ => return Err(wrong()),
    };
    // Without a sign, which `parse` accepts.
    let digits = number.bytes().all(|byte| byte.is_ascii_digit());
    number
        .parse::<u64>()
        .ok()
        .filter(|_| digits)
        .and_then(|number| number.checked_mul(unit))
        .filter(|seconds| (1..=MAX_DURATION).contains(seconds))
        .ok_or_else(wrong)
}

fn note(text: &str) -> Result<String, String> {
    if text.chars().count() > MAX_NOTE || text.chars().any(char::is_control) {
        return Err(format!("expected at most {MAX_NOTE} characters in one line"));
    }
    Ok(text.to_owned())
}

#[cfg(test)]
mod tests;
