//! Relay b with `registration.mode = "closed"`: only the operator creates accounts.

use anyhow::{Context as _, ensure};
use mailtest::client::{Account, http};
use mailtest::scenarios::accounts::refused;

use super::{Context, live};
use crate::harness::mailboxes;
use crate::machine::SystemOf;

const RELAY: &str = "b";
const NOW: SystemOf<'static> = SystemOf {
    host: "b",
    release: None,
};
const CLOSED: SystemOf<'static> = SystemOf {
    host: "b-closed",
    release: None,
};

pub(super) async fn by_settings(context: &Context) -> anyhow::Result<()> {
    let known = context.account(RELAY).await?;
    context.machines().switch(RELAY, &NOW, &CLOSED).await?;
    let result = closed(context, &known).await;
    context.machines().switch(RELAY, &CLOSED, &NOW).await?;
    result?;
    context.account(RELAY).await.context("open again")?;
    Ok(())
}

async fn closed(context: &Context, known: &Account) -> anyhow::Result<()> {
    let peer = &known.peer;
    known.imap().await.context("a known user")?;
    let stranger = Account::random(peer);
    refused(peer, &stranger.address, &stranger.password).await?;
    let home = mailboxes::of(&stranger);
    let left = context.machines().exec(RELAY, &["test", "-e", &home]).await?;
    ensure!(!left.status.success(), "{home} exists");
    let answer = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    ensure!(
        answer.status == 403 && text.contains("This relay does not accept new users."),
        "{}{text}",
        answer.head
    );
    let failed = live::with_invitation(context, RELAY, None).await?;
    ensure!(
        failed.len() == 4,
        "on a closed relay, only these fail: {failed:?}"
    );

    let created = context.run(RELAY, &["chatmail", "account", "create"]).await?;
    let field = |name: &str| created.lines().find_map(|line| line.strip_prefix(name));
    let account = Account {
        peer: peer.clone(),
        address: field("Created address: ").context("no address")?.to_owned(),
        password: field("Password: ").context("no password")?.to_owned(),
    };
    account
        .imap()
        .await
        .context("an account that the operator has created")?;
    let status = context
        .run(RELAY, &["sh", "-c", "chatmail status || true"])
        .await?;
    let words = status.split_whitespace().collect::<Vec<_>>().join(" ");
    ensure!(
        words.contains("registration closed by services.chatmail.registration.mode"),
        "{status}"
    );
    Ok(())
}
