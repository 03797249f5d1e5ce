//! Logins that the relay rejects.

use anyhow::{Context as _, ensure};

use super::Context;
use crate::client::Peer;
use crate::client::imap::Status;

const RELAY: &str = "a";

/// Dovecot's response to a rejected login; Delta Chat interprets it as a wrong password.
pub const REFUSED: &str = "[AUTHENTICATIONFAILED] Authentication failed.";

/// Checks that the relay rejects this address and password over IMAP and SMTP.
pub async fn refused(peer: &Peer, address: &str, password: &str) -> anyhow::Result<()> {
    let imap = peer.imap().await?.login(address, password).await?;
    ensure!(imap.status == Status::No, "IMAP accepted the login of {address}");
    ensure!(
        imap.text == REFUSED,
        "IMAP rejected {address} with: {}",
        imap.text
    );
    let smtp = peer.submission().await?.auth_plain(address, password).await?;
    ensure!(smtp.code == 535, "SMTP responded to {address} with: {smtp}");
    Ok(())
}

pub(super) async fn wrong_password(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    refused(&account.peer, &account.address, "another-password").await?;
    refused(&account.peer, &account.address, &format!("{}x", account.password)).await?;
    account
        .imap()
        .await
        .context("logging in with the correct password afterwards")?;
    Ok(())
}
