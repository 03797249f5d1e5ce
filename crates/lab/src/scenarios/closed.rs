//! Relay b with `registration.mode = "closed"`: only the operator creates accounts.

use anyhow::{Context as _, ensure};
use mailtest::client::{Account, Peer, http};
use mailtest::scenarios::accounts::refused;

use super::{Context, live};
use crate::harness::mailboxes;

const RELAY: &str = "b";
/// The relay on which mailtest runs.
const FROM: &str = "a";
const NOW: &str = "b";
const CLOSED: &str = "b-closed";

pub(super) async fn by_settings(context: &Context) -> anyhow::Result<()> {
    let known = context.account(RELAY).await?;
    context.machines().switch(RELAY, NOW, CLOSED).await?;
    let result = closed(context, &known).await;
    context.machines().switch(RELAY, CLOSED, NOW).await?;
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

    let account = created(context, peer).await?;
    account
        .imap()
        .await
        .context("an account that the operator has created")?;
    let other = created(context, peer).await?;
    tested(context, &[&account, &other]).await?;
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

/// An account that the operator creates.
async fn created(context: &Context, peer: &Peer) -> anyhow::Result<Account> {
    let created = context.run(RELAY, &["chatmail", "account", "create"]).await?;
    let field = |name: &str| created.lines().find_map(|line| line.strip_prefix(name));
    Ok(Account {
        peer: peer.clone(),
        address: field("Created address: ").context("no address")?.to_owned(),
        password: field("Password: ").context("no password")?.to_owned(),
    })
}

/// `chatmail test` and `chatmail ping` with accounts that exist, from another relay, whose resolver knows this one.
async fn tested(context: &Context, accounts: &[&Account]) -> anyhow::Result<()> {
    with_accounts(context, accounts).await?;
    // With two relays, one of which is open.
    let failed = live::with_accounts(context, RELAY, FROM, accounts).await?;
    ensure!(
        failed.is_empty(),
        "with accounts of relay {RELAY} only: {failed:?}"
    );
    Ok(())
}

async fn with_accounts(context: &Context, accounts: &[&Account]) -> anyhow::Result<()> {
    let domain = &accounts.first().context("no account")?.peer.domain;
    let passwords: String = accounts
        .iter()
        .map(|account| format!("{}\n", account.password))
        .collect();
    let run = async |words: &str, addresses: &[&str], passwords: &str| {
        let mut script = format!("chatmail {words}");
        for address in addresses {
            script.push_str(&format!(" --account {address}"));
        }
        let script = format!("export HOME=/root; printf %s \"$PASSWORDS\" | {script} --password-file -");
        let variable = format!("PASSWORDS={passwords}");
        let argv = ["env", &variable, "bash", "-c", &script];
        let output = context.machines().exec(FROM, &argv).await?;
        let text =
            String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        for account in accounts {
            ensure!(!text.contains(&account.password), "a password is shown: {text}");
        }
        anyhow::Ok((output.status.success(), text))
    };
    let addresses: Vec<&str> = accounts.iter().map(|account| account.address.as_str()).collect();
    let ping = format!("ping {domain} --count 2");
    let (good, text) = run(&ping, &addresses, &passwords).await?;
    ensure!(good && text.contains("2 sent, 2 arrived, 0 lost"), "{text}");
    let test = format!("test {domain} --only refused --only messages-notify --only web-site --only sign-up");
    let (good, text) = run(&test, &addresses, &passwords).await?;
    ensure!(
        good && text.contains("6 passed, 0 failed") && text.contains("sign-up: accounts are given"),
        "{text}"
    );
    let one = accounts
        .first()
        .map(|account| format!("{}\n", account.password))
        .unwrap_or_default();
    let (good, text) = run(&test, addresses.get(..1).unwrap_or_default(), &one).await?;
    ensure!(good && text.contains("give --account twice"), "{text}");

    // Failures, each before anything is tested.
    for (addresses, passwords, part) in [
        (
            &addresses[..],
            "wrong-password-1\nwrong-password-2\n",
            "refuses the login of",
        ),
        (
            &["abcdefghi@_b.test"][..],
            "a-password-of-nobody\n",
            "refuses the login of abcdefghi@_b.test",
        ),
        (
            &["someone12@_a.test"][..],
            "x\n",
            "the account someone12@_a.test is not on _b.test",
        ),
        (&addresses[..], "only-one\n", "one password per line"),
    ] {
        for words in [&ping, &test] {
            let (good, text) = run(words, addresses, passwords).await?;
            ensure!(
                !good && text.contains(part) && !text.contains("passed") && !text.contains("sent"),
                "{words} with {addresses:?} must say {part:?}: {text}"
            );
        }
    }
    Ok(())
}
