//! What the commands print.

use std::fmt::Write as _;

use chatmail_core::registration::{Id, Invitation, State, Token};
use chatmail_core::settings::RegistrationMode;
use serde::Serialize;

use super::links::Links;
use crate::times::{minute, rfc3339};

/// Maximum width of a note in the table, which then has 80 columns.
const NOTE: usize = 23;

/// An invitation in JSON. Only [`Created`] contains the token.
#[derive(Serialize)]
struct Entry {
    id: String,
    state: State,
    uses: u32,
    used: u32,
    created: String,
    expires: String,
    note: Option<String>,
}

/// A new invitation in JSON.
#[derive(Serialize)]
pub(super) struct Created<'a> {
    #[serde(flatten)]
    entry: Entry,
    token: &'a str,
    page: &'a str,
    link: Option<&'a str>,
}

impl Entry {
    fn new(id: &Id, invitation: &Invitation, now: u64) -> Self {
        Self {
            id: id.as_str().to_owned(),
            state: invitation.state(now),
            uses: invitation.uses,
            used: invitation.used,
            created: rfc3339(invitation.created),
            expires: rfc3339(invitation.expires),
            note: invitation.note.clone(),
        }
    }
}

impl<'a> Created<'a> {
    pub(super) fn new(id: &Id, invitation: &Invitation, token: &'a Token, links: &'a Links) -> Self {
        Self {
            entry: Entry::new(id, invitation, invitation.created),
            token: token.as_str(),
            page: &links.page,
            link: links.app.as_deref(),
        }
    }
}

pub(super) fn created(id: &Id, invitation: &Invitation, links: &Links) -> String {
    let mut text = format!(
        "Invitation {id} for {} account(s), until {}:\n\nweb page  {}\n",
        invitation.uses,
        utc(invitation.expires),
        links.page
    );
    if let Some(app) = &links.app {
        let _ = writeln!(text, "link      {app}");
    }
    text
}

pub(super) fn table(all: &[(Id, Invitation)], now: u64) -> String {
    let mut text = String::new();
    for (id, invitation) in all {
        let state = match invitation.state(now) {
            State::Valid => "valid",
            State::Expired => "expired",
            State::UsedUp => "used up",
        };
        let used = format!("{} of {}", invitation.used, invitation.uses);
        let note = shortened(invitation.note.as_deref().unwrap_or_default());
        let line = format!("{id}  {state:7}  {used:>14}  {}  {note}", utc(invitation.expires));
        let _ = writeln!(text, "{}", line.trim_end());
    }
    let _ = writeln!(text, "{} invitation(s)", all.len());
    text
}

pub(super) fn list_json(all: &[(Id, Invitation)], now: u64) -> anyhow::Result<String> {
    let entries = all.iter().map(|(id, invitation)| Entry::new(id, invitation, now));
    json(&entries.collect::<Vec<_>>())
}

pub(super) fn revoked(id: &Id, invitation: &Invitation) -> String {
    let accounts = match invitation.used {
        0 => "No account was created with it.".to_owned(),
        used => format!("{used} account(s) that were created with it stay."),
    };
    format!("Invitation {id} is revoked. {accounts}\n")
}

/// A note for operators whose relay does not ask for invitations.
pub(super) fn reminder(mode: RegistrationMode) -> String {
    let state = match mode {
        RegistrationMode::Invitation => return String::new(),
        RegistrationMode::Open => "open: everybody can get an account",
        RegistrationMode::Closed => "closed: nobody can get an account",
    };
    format!(
        "\nRegistration is {state}. To make invitations\ncount, set services.chatmail.registration.mode = \"invitation\".\n"
    )
}

pub(super) fn json(value: &impl Serialize) -> anyhow::Result<String> {
    Ok(serde_json::to_string_pretty(value)? + "\n")
}

fn shortened(note: &str) -> String {
    if note.chars().count() <= NOTE {
        return note.to_owned();
    }
    note.chars().take(NOTE - 1).chain(['…']).collect()
}

fn utc(time: u64) -> String {
    minute(i64::try_from(time).unwrap_or(i64::MAX))
}
