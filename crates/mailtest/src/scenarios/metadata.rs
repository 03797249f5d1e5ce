//! METADATA: clients read and write entries.

use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};

use super::Context;
use crate::client::imap::{Imap, Status};
use crate::client::message::random_name;

const RELAY: &str = "a";

/// Returns a new device token of this kind.
pub fn token(kind: &str) -> String {
    format!("{kind}-{}", random_name(12))
}

pub(super) async fn announcements(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    for (entry, wanted) in [
        ("maxsmtprecipients", Some("1000")),
        ("maxmessagesize", Some("52428800")),
        ("nothing", None),
    ] {
        let found = imap
            .server_metadata(&format!("/shared/vendor/deltachat/{entry}"))
            .await?;
        ensure!(found.as_deref() == wanted, "{entry} is {found:?}");
    }
    let admin = imap.server_metadata("/shared/admin").await?;
    ensure!(
        admin.as_deref().is_some_and(|admin| admin.starts_with("mailto:")),
        "/shared/admin is {admin:?}"
    );
    let versions = imap
        .server_metadata("/shared/vendor/deltachat/appversions")
        .await?;
    let versions: serde_json::Value = serde_json::from_str(&versions.context("no app versions")?)?;
    let version = versions.pointer("/clients/0/sources/0/versionString");
    ensure!(
        version.is_some_and(|version| version == "1.2.0"),
        "the app versions are {versions}"
    );
    let turn = imap.server_metadata("/shared/vendor/deltachat/turn").await?;
    let turn = turn.context("no TURN server is announced")?;
    let [host, "3478", expires, password] = turn.split(':').collect::<Vec<_>>()[..] else {
        bail!("the TURN server is announced as {turn:?}");
    };
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)?
        .as_secs();
    let left = expires.parse::<u64>()?.saturating_sub(now);
    ensure!(host == account.peer.domain, "the TURN server is {host}");
    // Delta Chat requests new credentials when the old ones are valid for less than half a day.
    ensure!(left > 12 * 60 * 60, "credentials expire in {left} s");
    ensure!(
        password.len() == 28,
        "{} characters are not an HMAC-SHA1",
        password.len()
    );
    Ok(())
}

pub(super) async fn device_tokens(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    let none = imap.device_tokens().await?;
    ensure!(none.is_none(), "a new account has tokens: {none:?}");
    let (one, two) = (token("openpgp:one"), token("openpgp:two"));
    imap.add_device_token(&one).await?;
    imap.add_device_token(&two).await?;
    imap.add_device_token(&one).await?;
    let both = imap.device_tokens().await?.unwrap_or_default();
    let mut both: Vec<_> = both.split(' ').collect();
    both.sort_unstable();
    ensure!(both == [&one, &two], "the tokens are {both:?}");
    let refused = imap.set_device_token("\"two words\"").await?;
    ensure!(refused == Status::No, "a token of two words: {refused:?}");
    // Tokens belong to one account only.
    let other = context.account(RELAY).await?;
    let theirs = other.imap().await?.device_tokens().await?;
    ensure!(theirs.is_none(), "another account sees {theirs:?}");
    let removed = imap.set_device_token("NIL").await?;
    ensure!(removed == Status::Ok, "removing all tokens: {removed:?}");
    let none = imap.device_tokens().await?;
    ensure!(none.is_none(), "after their removal there are {none:?}");
    Ok(())
}

/// A client can set, read and remove entries of every mailbox and of the server.
pub(super) async fn own_metadata(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let mut imap = account.imap().await?;
    imap.command("CREATE Box").await?.ok()?;
    for mailbox in ["Box", "INBOX", "\"\""] {
        let get = format!("GETMETADATA {mailbox} (/private/comment)");
        let value = async |imap: &mut Imap| {
            let answer = imap.command(&get).await?.ok()?;
            anyhow::Ok(format!("{:?}", answer.data("METADATA").collect::<Vec<_>>()))
        };
        imap.command(&format!(
            "SETMETADATA {mailbox} (/private/comment \"of {}\")",
            mailbox.len()
        ))
        .await?
        .ok()?;
        let set = value(&mut imap).await?;
        let text: Vec<u8> = format!("of {}", mailbox.len()).into_bytes();
        ensure!(set.contains(&format!("{text:?}")), "{mailbox} has {set}");
        let mut other = context.account(RELAY).await?.imap().await?;
        let foreign = other
            .command("GETMETADATA INBOX (/private/comment)")
            .await?
            .ok()?;
        let foreign = format!("{:?}", foreign.data("METADATA").collect::<Vec<_>>());
        ensure!(
            !foreign.contains(&format!("{text:?}")),
            "another account has {foreign}"
        );
        imap.command(&format!("SETMETADATA {mailbox} (/private/comment NIL)"))
            .await?
            .ok()?;
        let unset = value(&mut imap).await?;
        ensure!(
            !unset.contains(&format!("{text:?}")),
            "{mailbox} still has {unset}"
        );
    }
    Ok(())
}
