//! Accounts come into being by the first login.

use std::time::Duration;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::client::imap::Status;
use crate::client::message::random_name;
use crate::client::{Account, Peer};

/// How long a log line may take to appear.
const LOGGED: Duration = Duration::from_secs(10);
const RELAY: &str = "a";
/// What Dovecot says when it refuses; Delta Chat takes it for a wrong password.
const REFUSED: &str = "[AUTHENTICATIONFAILED] Authentication failed.";

async fn created(context: &Context, account: &Account) -> anyhow::Result<()> {
    let home = format!("/home/vmail/mail/{}/{}", account.peer.domain, account.address);
    for file in ["password", "enforceE2EEincoming"] {
        context
            .run(RELAY, &["test", "-f", &format!("{home}/{file}")])
            .await?;
    }
    let stored = context
        .run(RELAY, &["head", "-c", "10", &format!("{home}/password")])
        .await?;
    ensure!(stored == "{ARGON2ID}", "the password is stored as {stored}…");
    Ok(())
}

pub(super) async fn sign_up_over_imap(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines()?;
    let account = Account::random(&context.peer(RELAY)?);
    let start = lab.cursor(RELAY).await?;
    let mut imap = account.peer.imap().await?;
    let before = imap.greeting_capabilities();
    let login = imap.login(&account.address, &account.password).await?.ok()?;
    let after = imap.capabilities(&login).await?;
    for wanted in ["XCHATMAIL", "XDELTAPUSH"] {
        ensure!(
            before.iter().any(|known| known == wanted),
            "{wanted} is not announced before login: {before:?}"
        );
    }
    for wanted in [
        "XCHATMAIL",
        "XDELTAPUSH",
        "IDLE",
        "METADATA",
        "QUOTA",
        "MOVE",
        "ID",
    ] {
        ensure!(
            after.iter().any(|known| known == wanted),
            "{wanted} is not announced after login: {after:?}"
        );
    }
    ensure!(imap.select_inbox().await? == 0, "a new account has mail");
    let want = format!("Created address: {}", account.address);
    lab.follow(RELAY, Some("doveauth"), &start, &want, LOGGED).await?;
    created(context, &account).await
}

pub(super) async fn sign_up_over_smtp(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines()?;
    let account = Account::random(&context.peer(RELAY)?);
    let start = lab.cursor(RELAY).await?;
    let mut smtp = account.peer.submission_starttls().await?;
    smtp.auth_plain(&account.address, &account.password)
        .await?
        .expect(235)?;
    let want = format!("Created address: {}", account.address);
    lab.follow(RELAY, Some("doveauth"), &start, &want, LOGGED).await?;
    created(context, &account).await?;
    account.imap().await.context("logging in over IMAP afterwards")?;
    Ok(())
}

async fn refused(peer: &Peer, address: &str, password: &str) -> anyhow::Result<()> {
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

pub(super) async fn second_login(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines()?;
    let start = lab.cursor(RELAY).await?;
    let account = context.account(RELAY).await?;
    account.imap().await.context("the second login over IMAP")?;
    account.smtp().await.context("the first login over SMTP")?;
    let lines = lab.journal(RELAY, Some("doveauth"), &start).await?;
    let times = lines
        .iter()
        .filter(|line| line.contains(&account.address))
        .count();
    ensure!(
        times == 1,
        "{times} log lines about an account that was created once: {lines:?}"
    );
    Ok(())
}

pub(super) async fn two_first_logins(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines()?;
    let account = Account::random(&context.peer(RELAY)?);
    let start = lab.cursor(RELAY).await?;
    // Both connections stand before either logs in, as when a client configures IMAP and SMTP at once.
    let (mut imap, mut smtp) = tokio::try_join!(account.peer.imap(), account.peer.submission())?;
    let (login, auth) = tokio::try_join!(
        imap.login(&account.address, &account.password),
        smtp.auth_plain(&account.address, &account.password)
    )?;
    login.ok().context("IMAP")?;
    auth.expect(235).context("SMTP")?;
    let want = format!("Created address: {}", account.address);
    let lines = lab.journal(RELAY, Some("doveauth"), &start).await?;
    let times = lines.iter().filter(|line| line.contains(&want)).count();
    ensure!(times == 1, "created {times} times: {lines:?}");
    created(context, &account).await
}

/// An attempt is refused over IMAP and SMTP, leaves nothing behind, and the log says why.
async fn not_created(context: &Context, address: &str, password: &str, log: &str) -> anyhow::Result<()> {
    let lab = context.machines()?;
    let peer = context.peer(RELAY)?;
    let start = lab.cursor(RELAY).await?;
    refused(&peer, address, password).await?;
    lab.follow(RELAY, Some("doveauth"), &start, log, LOGGED).await?;
    let home = format!("/home/vmail/mail/{}/{address}", peer.domain);
    let left = lab.exec(RELAY, &["test", "-e", &home]).await?;
    ensure!(!left.status.success(), "{home} exists");
    Ok(())
}

pub(super) async fn bad_localpart(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(RELAY)?.domain;
    let password = random_name(12);
    // Dovecot refuses most characters itself; brackets it lets through, for addresses of relays without a domain.
    let bad = format!("{}[x]", random_name(6));
    let log = format!("localpart '{bad}' contains invalid characters");
    not_created(context, &format!("{bad}@{domain}"), &password, &log).await?;
    for length in [8, 10] {
        let bad = random_name(length);
        let log = format!("localpart {bad} has to be between 9 and 9 chars long");
        not_created(context, &format!("{bad}@{domain}"), &password, &log).await?;
    }
    Ok(())
}

pub(super) async fn short_password(context: &Context) -> anyhow::Result<()> {
    let account = Account::random(&context.peer(RELAY)?);
    let log = "Password needs to be at least 9 characters long";
    not_created(context, &account.address, "eight888", log).await
}

pub(super) async fn foreign_domain(context: &Context) -> anyhow::Result<()> {
    let other = context.peer("b")?.domain;
    let address = format!("{}@{other}", random_name(9));
    not_created(
        context,
        &address,
        &random_name(12),
        "address belongs to another domain",
    )
    .await
}

pub(super) async fn nocreate_file(context: &Context) -> anyhow::Result<()> {
    let known = context.account(RELAY).await?;
    for file in ["/var/lib/chatmail/nocreate", "/etc/chatmail-nocreate"] {
        let account = Account::random(&known.peer);
        context.run(RELAY, &["touch", file]).await?;
        let closed = async {
            let log = format!("blocked account creation because '{file}' exists.");
            not_created(context, &account.address, &account.password, &log).await?;
            known
                .imap()
                .await
                .context("a known user while the relay is closed")
        };
        let closed = closed.await;
        let status = context.run(RELAY, &["sh", "-c", "chatmail status || true"]).await;
        context.run(RELAY, &["rm", "-f", file]).await?;
        closed?;
        ensure!(
            status?.contains(file),
            "the status does not say why no accounts are created"
        );
        account.imap().await.context("a new user once the file is gone")?;
    }
    Ok(())
}
