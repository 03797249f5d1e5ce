//! Logins that are refused.

use anyhow::{Context as _, ensure};

use super::Context;
use crate::client::Peer;
use crate::client::imap::Status;

const RELAY: &str = "a";

/// What Dovecot says when it refuses; Delta Chat takes it for a wrong password.
pub const REFUSED: &str = "[AUTHENTICATIONFAILED] Authentication failed.";

/// Nobody can log in with this address and password, over IMAP or SMTP.
pub async fn refused(peer: &Peer, address: &str, password: &str) -> anyhow::Result<()> {
    let imap = peer.imap().await?.login(address, password).await?;
    ensure!(imap.status == Status::No, "IMAP let {address} in");
    ensure!(imap.text == REFUSED, "IMAP refused {address} with: {}", imap.text);
    let smtp = peer.submission().await?.auth_plain(address, password).await?;
    ensure!(smtp.code == 535, "SMTP answered {address} with: {smtp}");
    Ok(())
}

pub(super) async fn wrong_password(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    refused(&account.peer, &account.address, "another-password").await?;
    refused(&account.peer, &account.address, &format!("{}x", account.password)).await?;
    account.imap().await.context("the right password afterwards")?;
    Ok(())
}
