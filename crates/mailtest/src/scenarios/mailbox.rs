//! Sessions and folders of one account.

use anyhow::{Context as _, ensure};

use super::Context;
use crate::client::Account;
use crate::client::imap::Value;

const RELAY: &str = "a";

const FOLDERS: [(&str, &str); 5] = [
    ("Drafts", "\\Drafts"),
    ("Junk", "\\Junk"),
    ("Trash", "\\Trash"),
    ("Sent", "\\Sent"),
    ("Sent Messages", "\\Sent"),
];

/// One person uses many devices behind one IP address.
pub(super) async fn many_sessions(context: &Context) -> anyhow::Result<()> {
    const DEVICES: usize = 40;
    let account: Account = context.account(RELAY).await?;
    let mut sessions = Vec::new();
    for number in 1..=DEVICES {
        let session = account.imap().await;
        sessions.push(session.with_context(|| format!("session {number} of one account"))?);
    }
    for session in &mut sessions {
        session.select_inbox().await?;
    }
    Ok(())
}

pub(super) async fn special_use_folders(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    for (folder, _) in FOLDERS {
        imap.command(&format!("CREATE \"{folder}\"")).await?.ok()?;
    }
    let listed = imap.command("LIST \"\" \"*\" RETURN (SPECIAL-USE)").await?.ok()?;
    for (folder, used_for) in FOLDERS {
        let line = listed
            .data("LIST")
            .find(|values| values.get(2).and_then(Value::as_text).as_deref() == Some(folder))
            .with_context(|| format!("folder {folder} is not listed"))?;
        let attributes = line.first().and_then(Value::as_list).unwrap_or_default();
        let found = attributes
            .iter()
            .any(|attribute| attribute.as_text().as_deref() == Some(used_for));
        ensure!(found, "{folder} is listed with {attributes:?}");
    }
    Ok(())
}
