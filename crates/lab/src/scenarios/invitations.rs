//! Relay b by invitation: people with a token get an account, others are told why they get none.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::http::{self, Answer};
use mailtest::client::message::random_name;
use mailtest::client::{Account, Peer};
use mailtest::scenarios::accounts::refused;
use serde::Deserialize;

use super::metrics::Samples;
use super::{Context, live};
use crate::harness::mailboxes;

const RELAY: &str = "b";
const NOW: &str = "b";
/// The same relay with `registration.mode = "invitation"` and eight accounts per hour.
const BY_INVITATION: &str = "b-invitation";
const PER_HOUR: usize = 8;
const FOLDER: &str = "/var/lib/chatmail-registration";
/// Time within which a log line appears.
const LOGGED: Duration = Duration::from_secs(10);

/// What `chatmail invite create --json` prints.
#[derive(Deserialize)]
struct Created {
    id: String,
    token: String,
    page: String,
    link: String,
}

/// An entry of `chatmail invite list --json`.
#[derive(Deserialize)]
struct Listed {
    id: String,
    state: String,
    used: u32,
}

async fn invite(context: &Context, uses: &str) -> anyhow::Result<Created> {
    let create = ["chatmail", "invite", "create", "--uses", uses, "--json"];
    Ok(serde_json::from_str(&context.run(RELAY, &create).await?)?)
}

/// State and number of uses of an invitation.
async fn listed(context: &Context, invitation: &Created) -> anyhow::Result<(String, u32)> {
    let list = context
        .run(RELAY, &["chatmail", "invite", "list", "--json"])
        .await?;
    ensure!(!list.contains(&invitation.token), "the list shows a token");
    let list: Vec<Listed> = serde_json::from_str(&list)?;
    let found = list.into_iter().find(|listed| listed.id == invitation.id);
    let found = found.context("the invitation is not listed")?;
    Ok((found.state, found.used))
}

async fn counted(context: &Context, invitation: &Created, state: &str, used: u32) -> anyhow::Result<()> {
    let found = listed(context, invitation).await?;
    ensure!(
        found == (state.to_owned(), used),
        "the invitation is {found:?}, not {state} with {used} uses"
    );
    Ok(())
}

async fn new(peer: &Peer, query: &str) -> anyhow::Result<Answer> {
    let path = format!("/new{query}");
    http::request(peer.port(443), &peer.tls, &peer.domain, "POST", &path).await
}

/// Asks for an address with an invitation.
async fn given(peer: &Peer, invitation: &Created) -> anyhow::Result<Account> {
    let answer = new(peer, &format!("?token={}", invitation.token)).await?;
    ensure!(answer.status == 200, "POST /new: {}", answer.head);
    let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let field = |name: &str| body.get(name).and_then(serde_json::Value::as_str);
    Ok(Account {
        peer: peer.clone(),
        address: field("email").context("no address")?.to_owned(),
        password: field("password").context("no password")?.to_owned(),
    })
}

/// The reason for which the relay gives no address.
async fn reason(peer: &Peer, query: &str, status: u16) -> anyhow::Result<String> {
    let answer = new(peer, query).await?;
    ensure!(answer.status == status, "POST /new: {}", answer.head);
    let body: serde_json::Value = serde_json::from_slice(&answer.body)?;
    let reason = body.get("reason").and_then(serde_json::Value::as_str);
    Ok(reason.context("no reason")?.to_owned())
}

async fn told(peer: &Peer, invitation: &Created, why: &str) -> anyhow::Result<()> {
    let reason = reason(peer, &format!("?token={}", invitation.token), 403).await?;
    ensure!(reason.contains(why), "the reason is {reason:?}, without {why:?}");
    Ok(())
}

async fn not_created(context: &Context, account: &Account, log: &str) -> anyhow::Result<()> {
    let start = context.machines().cursor(RELAY).await?;
    refused(&account.peer, &account.address, &account.password).await?;
    let machines = context.machines();
    machines
        .follow(RELAY, Some("doveauth"), &start, log, LOGGED)
        .await?;
    let home = mailboxes::of(account);
    let left = machines.exec(RELAY, &["test", "-e", &home]).await?;
    ensure!(!left.status.success(), "{home} exists");
    Ok(())
}

/// A relay that people with an invitation can join, and nobody else.
pub(super) async fn let_people_in(context: &Context) -> anyhow::Result<()> {
    played(context, |known| async move {
        people(context, &known).await?;
        each_use_counts_once(context).await?;
        worthless(context).await?;
        pages(context).await?;
        tested(context).await
    })
    .await
}

/// The limit of accounts per hour, which a restart does not reset.
pub(super) async fn limit(context: &Context) -> anyhow::Result<()> {
    played(context, |_| async move {
        let peer = context.peer(RELAY)?;
        let invitation = invite(context, "100").await?;
        for number in 1..=PER_HOUR {
            let account = given(&peer, &invitation).await?;
            account
                .imap()
                .await
                .with_context(|| format!("account {number}"))?;
            if number == PER_HOUR / 2 {
                context.run(RELAY, &["systemctl", "restart", "doveauth"]).await?;
            }
        }
        let late = reason(&peer, &format!("?token={}", invitation.token), 429).await?;
        ensure!(late.contains("for this hour"), "the reason is {late:?}");
        let mut account = Account::random(&peer);
        account.password = format!("{}{}", invitation.token, account.password);
        not_created(context, &account, "8 accounts were created within an hour").await?;
        counted(context, &invitation, "valid", 8).await?;
        let status = context
            .run(RELAY, &["sh", "-c", "chatmail status || true"])
            .await?;
        let line =
            "by invitation: 1 valid invitation(s) for 92 account(s), 8 of 8 account(s) in the last hour";
        // Long lines are wrapped.
        let words = status.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(words.contains(line), "{status}");
        // An hour later.
        let old = format!("sed -i -E 's/\"[0-9]+\"/\"1\"/' {FOLDER}/created");
        context.run(RELAY, &["sh", "-c", &old]).await?;
        account.imap().await.context("an hour later")?;
        Ok(())
    })
    .await
}

/// Switches the relay to invitations and back, and removes all of them.
async fn played<F>(context: &Context, play: impl FnOnce(Account) -> F) -> anyhow::Result<()>
where
    F: Future<Output = anyhow::Result<()>>,
{
    let known = context.account(RELAY).await?;
    context.machines().switch(RELAY, NOW, BY_INVITATION).await?;
    let start = context.machines().cursor(RELAY).await?;
    let result = play(known).await;
    let lines = context.machines().journal(RELAY, None, &start).await;
    let tokens = context
        .run(RELAY, &["sh", "-c", &format!("rm -f {FOLDER}/*")])
        .await;
    context.machines().switch(RELAY, BY_INVITATION, NOW).await?;
    result?;
    tokens?;
    let lines = lines?;
    ensure!(
        lines.iter().any(|line| line.contains("POST /new")),
        "nginx does not log"
    );
    let leak = lines.iter().find(|line| line.contains("token="));
    ensure!(leak.is_none(), "a log contains a token: {leak:?}");
    context.account(RELAY).await.context("open again")?;
    Ok(())
}

/// Real clients with and without an invitation.
async fn people(context: &Context, known: &Account) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let stranger = Account::random(&peer);
    not_created(
        context,
        &stranger,
        "blocked account creation without an invitation.",
    )
    .await?;
    known.imap().await.context("a known user")?;
    let why = reason(&peer, "", 403).await?;
    ensure!(
        why == "You need an invitation to get an address on this relay.",
        "{why}"
    );
    let invitation = invite(context, "2").await?;
    let program = context.program().await?;
    let friend = program.user_of_code("carol", &invitation.link).await?;
    ensure!(
        friend.address.ends_with(&format!("@{}", peer.domain)),
        "{}",
        friend.address
    );
    counted(context, &invitation, "valid", 1).await?;
    // Whoever signs up with the domain alone has no token.
    let alone = program.user("dave", &peer.domain).await;
    ensure!(alone.is_err(), "a client signs up without an invitation");
    program.user_of_code("erin", &invitation.link).await?;
    counted(context, &invitation, "used_up", 2).await?;
    // The client shows the reason.
    let Err(error) = program.user_of_code("frank", &invitation.link).await else {
        anyhow::bail!("the invitation is good for a third account");
    };
    ensure!(
        format!("{error:#}").contains("This invitation has been used up. Please ask for a new one."),
        "{error:#}"
    );
    let files = context
        .run(
            RELAY,
            &["sh", "-c", &format!("stat -c '%U %G %a' {FOLDER} {FOLDER}/*")],
        )
        .await?;
    let mut lines = files.lines();
    ensure!(
        lines.next() == Some("vmail chatmail-registration 2750")
            && lines.all(|line| line == "vmail chatmail-registration 640"),
        "{files}"
    );
    Ok(())
}

/// `chatmail test` with and without an invitation.
async fn tested(context: &Context) -> anyhow::Result<()> {
    let invitation = invite(context, "100").await?;
    // The accounts of this hour were created before.
    context
        .run(RELAY, &["rm", "-f", &format!("{FOLDER}/created")])
        .await?;
    let failed = live::with_invitation(context, RELAY, Some(&invitation.token)).await?;
    ensure!(failed.is_empty(), "{failed:?}");
    let failed = live::with_invitation(context, RELAY, None).await?;
    ensure!(
        failed.len() == 4,
        "without an invitation, only these fail: {failed:?}"
    );
    let named = failed.iter().any(|failure| failure.contains(&invitation.token));
    ensure!(!named, "the report names the token");
    Ok(())
}

/// Two people use the last use of an invitation at the same moment, and doveauth is killed.
async fn each_use_counts_once(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let invitation = invite(context, "1").await?;
    // An address that nobody uses costs nothing.
    given(&peer, &invitation).await?;
    let (one, other) = (given(&peer, &invitation).await?, given(&peer, &invitation).await?);
    let (mut first, mut second) = tokio::try_join!(peer.imap(), peer.imap())?;
    let (first, second) = tokio::try_join!(
        first.login(&one.address, &one.password),
        second.login(&other.address, &other.password)
    )?;
    let (first, second) = (first.ok().is_ok(), second.ok().is_ok());
    ensure!(
        first != second,
        "the same use lets in {} people",
        usize::from(first) + usize::from(second)
    );
    context
        .run(RELAY, &["systemctl", "kill", "--signal=KILL", "doveauth"])
        .await?;
    counted(context, &invitation, "used_up", 1).await?;
    let (winner, loser) = if first { (one, other) } else { (other, one) };
    winner.imap().await.context("the account that was created")?;
    not_created(context, &loser, "because the invitation is used up.").await
}

/// Invitations that are revoked or expired after an address was given.
async fn worthless(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let revoked = invite(context, "1").await?;
    let account = given(&peer, &revoked).await?;
    let id = revoked.id.get(..8).context("a short ID")?;
    context.run(RELAY, &["chatmail", "invite", "revoke", id]).await?;
    told(&peer, &revoked, "This invitation is not valid.").await?;
    not_created(
        context,
        &account,
        "blocked account creation without an invitation.",
    )
    .await?;
    let again = context
        .machines()
        .exec(RELAY, &["chatmail", "invite", "revoke", id])
        .await?;
    let error = String::from_utf8_lossy(&again.stderr).into_owned();
    ensure!(
        !again.status.success() && error.contains("`chatmail invite list` shows all of them"),
        "{error}"
    );

    let expired = invite(context, "1").await?;
    let account = given(&peer, &expired).await?;
    let later = format!(
        "sed -i -E 's/\"expires\":[0-9]+/\"expires\":1/' {FOLDER}/{}",
        expired.id
    );
    context.run(RELAY, &["sh", "-c", &later]).await?;
    told(&peer, &expired, "This invitation has expired.").await?;
    not_created(context, &account, "because the invitation has expired.").await?;
    counted(context, &expired, "expired", 0).await?;

    let metrics = context
        .run(RELAY, &["curl", "-sSf", "http://127.0.0.1:3905/metrics"])
        .await?;
    let metrics = Samples::parse(&metrics)?;
    for reason in ["uninvited", "expired", "used_up"] {
        let count = metrics.sum(
            &["chatmail_accounts_refused_total"],
            &format!("reason=\"{reason}\""),
        );
        ensure!(count.is_some(), "doveauth does not count {reason}");
    }
    Ok(())
}

/// The web site promises nothing, and the page of an invitation leads to an account.
async fn pages(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let get = async |path: &str| {
        let answer = http::request(peer.port(443), &peer.tls, &peer.domain, "GET", path).await?;
        let html = String::from_utf8_lossy(&answer.body).into_owned();
        anyhow::Ok((answer, html))
    };
    let (_, home) = get("/").await?;
    ensure!(
        !home.contains("/new") && home.contains("You need an invitation"),
        "the home page promises an account: {home}"
    );
    let invitation = invite(context, "1").await?;
    let path = invitation
        .page
        .strip_prefix(&format!("https://{}", peer.domain))
        .context("the page of another host")?;
    let (answer, page) = get(path).await?;
    let token = &invitation.token;
    let link = format!("/new?format=link&amp;token={token}");
    ensure!(
        answer.status == 200
            && page.contains(&format!("href=\"{link}\""))
            && page.contains(&format!("src=\"/new?format=svg&amp;token={token}\""))
            && page.contains("You are invited"),
        "{}{page}",
        answer.head
    );
    ensure!(
        answer.field("cache-control") == Some("no-store") && !page.contains("<!--#"),
        "{}{page}",
        answer.head
    );
    let (_, german) = get(&format!("/de/invite.html?token={token}")).await?;
    ensure!(
        german.contains("Du bist eingeladen") && german.contains(&link),
        "{german}"
    );
    // Only what looks like a token gets into the page.
    for odd in ["", "?token=", "?token=%22%3E%3Cscript%3E", "?token=short"] {
        let (answer, page) = get(&format!("/invite{odd}")).await?;
        ensure!(
            answer.status == 200 && page.contains("This link is incomplete.") && !page.contains("/new"),
            "{odd}: {}{page}",
            answer.head
        );
    }
    let (followed, _) = get(&link.replace("&amp;", "&")).await?;
    let account = followed.field("location").context("no link to the app")?;
    ensure!(
        followed.status == 302 && account.starts_with("dclogin:") && account.contains(token.as_str()),
        "{}",
        followed.head
    );
    let (picture, _) = get(&format!("/new?format=svg&token={token}")).await?;
    ensure!(
        picture.field("content-type") == Some("image/svg+xml"),
        "{}",
        picture.head
    );
    let unknown = random_name(22);
    let (stranger, _) = get(&format!("/new?format=link&token={unknown}")).await?;
    ensure!(stranger.status == 403, "{}", stranger.head);
    Ok(())
}
