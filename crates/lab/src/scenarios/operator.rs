//! The command-line program `chatmail`, run on a relay.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::imap::{Imap, Status};
use mailtest::client::message::random_name;
use mailtest::client::{Account, arrival_of, pgp};
use mailtest::until;

use super::Context;
use crate::harness::mailboxes;

const RELAY: &str = "a";
/// The lab's name server, which serves the relay's zone.
const NAME_SERVER: &str = "198.18.25.2";

/// Time within which the relay closes the sessions of a banned account.
const LOGGED: Duration = Duration::from_secs(10);
/// Dovecot's response to a rejected login; Delta Chat interprets it as a wrong password.
const REFUSED: &str = "[AUTHENTICATIONFAILED] Authentication failed.";

/// Runs `chatmail` on the relay; returns whether it exited with status 0, and its output.
async fn chatmail(context: &Context, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let argv = [&["chatmail"], arguments].concat();
    let output = context.machines().exec(RELAY, &argv).await?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

/// Returns the string at a JSON pointer.
fn text_at<'a>(json: &'a serde_json::Value, pointer: &str) -> Option<&'a str> {
    json.pointer(pointer)?.as_str()
}

/// Wide lines are broken at any space.
fn holds(text: &str, wanted: &str) -> anyhow::Result<()> {
    ensure!(
        text.contains(wanted) || unbroken(text).contains(wanted),
        "there is no {wanted:?} in:\n{text}"
    );
    Ok(())
}

/// The words of an output, which can be broken into lines.
pub(super) fn unbroken(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// Empties the cache of the relay's resolver. Resets the start limit, because scenarios do this many times in a row.
pub(super) async fn forget_answers(context: &Context, relay: &str) -> anyhow::Result<()> {
    for verb in ["reset-failed", "restart"] {
        context
            .run(relay, &["systemctl", verb, "unbound.service"])
            .await?;
    }
    Ok(())
}

/// Publishes a changed zone of the relay, empties the resolver's cache, and runs the check.
async fn check_zone(
    context: &Context,
    change: impl FnOnce(&str) -> String,
) -> anyhow::Result<(bool, String)> {
    let domain = context.peer(RELAY)?.domain;
    let zone = context.run(RELAY, &["chatmail", "dns", "--zone"]).await?;
    let changed = change(&zone);
    context.machines().publish(&domain, &changed).await?;
    forget_answers(context, RELAY).await?;
    let checked = chatmail(context, &["dns", "--check"]).await;
    context.machines().publish(&domain, &zone).await?;
    forget_answers(context, RELAY).await?;
    checked
}

/// A zone whose name server responds to the relay.
pub(super) fn delegated(zone: &str, domain: &str) -> String {
    zone.replace(&format!("IN NS {domain}."), &format!("IN NS ns.{domain}."))
        + &format!("ns.{domain}. IN A {NAME_SERVER}\n")
}

pub(super) fn without(zone: &str, marks: &[&str]) -> String {
    let kept = zone
        .lines()
        .filter(|line| !marks.iter().any(|mark| line.contains(mark)));
    kept.map(|line| format!("{line}\n")).collect()
}

pub(super) async fn dns_right(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(RELAY)?.domain;
    let great = "Great! All your DNS entries are verified and correct.\n";
    let (good, text) = check_zone(context, |zone| delegated(zone, &domain)).await?;
    ensure!(good && text.ends_with(great) && !text.contains("Note:"), "{text}");
    holds(&text, &format!("asking ns.{domain}."))?;
    // The zones of the lab name the relay itself as their server, which does not respond, as with a hidden primary.
    let (good, text) = check_zone(context, str::to_owned).await?;
    ensure!(good && text.ends_with(great), "{text}");
    holds(&text, &format!("Note: the name server {domain} cannot be asked"))?;
    let json = context
        .run(RELAY, &["chatmail", "dns", "--check", "--json"])
        .await?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    ensure!(
        json.get("ok").is_some_and(|ok| ok == true)
            && json
                .pointer("/records/0/state")
                .is_some_and(|state| state == "right"),
        "{json}"
    );
    Ok(())
}

pub(super) async fn dns_faults(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(RELAY)?.domain;
    let key = format!("opendkim._domainkey.{domain}");
    let (good, text) = check_zone(context, |zone| {
        without(&delegated(zone, &domain), &[&format!("www.{domain}"), "_dmarc"])
    })
    .await?;
    ensure!(!good, "a missing record is not reported:\n{text}");
    for wanted in [
        "Missing www CNAME record:\n",
        &format!("missing    www.{domain}  CNAME  {domain}.\n"),
        &format!("missing    _dmarc.{domain}  TXT  "),
        "1 required DNS entries are not right.\n",
    ] {
        holds(&text, wanted)?;
    }
    let address = format!("{domain}. IN A ");
    let (good, text) = check_zone(context, |zone| without(&delegated(zone, &domain), &[&address])).await?;
    ensure!(!good, "a missing address is not reported:\n{text}");
    holds(&text, &format!("Missing A and/or AAAA DNS records for {domain}!"))?;
    let (good, text) = check_zone(context, |zone| {
        without(&delegated(zone, &domain), &[&key])
            + &format!("{key}. IN TXT \"v=DKIM1;k=rsa;\" \"p=AAAA\"\n")
    })
    .await?;
    ensure!(!good, "another key is not reported:\n{text}");
    holds(&text, &format!("differs {key} TXT v=DKIM1;"))?;
    holds(&text, "published: v=DKIM1;k=rsa;p=AAAA\n")?;
    let (good, text) = check_zone(context, |zone| delegated(zone, &domain).replace("~all", "-all")).await?;
    ensure!(good, "a recommended record is required:\n{text}");
    holds(
        &text,
        "All required DNS entries are right; 1 recommended one(s) are not.\n",
    )
}

/// The check ignores the resolver's cache if the zone's own servers respond.
pub(super) async fn dns_old_answers(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let domain = context.peer(RELAY)?.domain;
    let zone = context.run(RELAY, &["chatmail", "dns", "--zone"]).await?;
    let old = delegated(&zone, &domain).replace("v=spf1 a ~all", "v=spf1 mx ~all");
    lab.publish(&domain, &old).await?;
    let (_, before) = chatmail(context, &["dns", "--check"]).await?;
    lab.publish(&domain, &delegated(&zone, &domain)).await?;
    let (good, after) = chatmail(context, &["dns", "--check"]).await?;
    lab.publish(&domain, &zone).await?;
    forget_answers(context, RELAY).await?;
    holds(&before, "published: v=spf1 mx ~all")?;
    ensure!(good && after.ends_with("verified and correct.\n"), "{after}");
    holds(&after, &format!("does not know {domain} TXT yet"))
        .context("the resolver has already dropped the answer")
}

/// Checks that IMAP and SMTP reject the login with the response for a wrong password.
async fn locked_out(account: &Account) -> anyhow::Result<()> {
    locked_out_of_imap(account).await?;
    let smtp = account
        .peer
        .submission()
        .await?
        .auth_plain(&account.address, &account.password)
        .await?;
    ensure!(smtp.code == 535, "SMTP answers with: {smtp}");
    Ok(())
}

async fn locked_out_of_imap(account: &Account) -> anyhow::Result<()> {
    let imap = account
        .peer
        .imap()
        .await?
        .login(&account.address, &account.password)
        .await?;
    ensure!(
        imap.status == Status::No,
        "IMAP accepts the login of {}",
        account.address
    );
    ensure!(imap.text == REFUSED, "IMAP answers with: {}", imap.text);
    Ok(())
}

/// Waits until the relay closes a session.
async fn ended(session: &mut Imap) -> anyhow::Result<()> {
    let asking = async { while session.command("NOOP").await.is_ok() {} };
    tokio::time::timeout(LOGGED, asking).await.context("not in time")
}

pub(super) async fn account_ban(context: &Context) -> anyhow::Result<()> {
    let (banned, writer) = (context.account(RELAY).await?, context.account("b").await?);
    let mut session = banned.imap().await?;
    let text = context
        .run(RELAY, &["chatmail", "account", "ban", &banned.address])
        .await?;
    holds(&text, &format!("{} is banned", banned.address))?;
    ended(&mut session)
        .await
        .context("the relay does not close the open session")?;

    locked_out(&banned).await.context("with doveauth")?;
    context
        .run(
            RELAY,
            &["systemctl", "stop", "doveauth.socket", "doveauth.service"],
        )
        .await?;
    let alone = locked_out_of_imap(&banned).await.context("without doveauth");
    context
        .run(
            RELAY,
            &["systemctl", "start", "doveauth.socket", "doveauth.service"],
        )
        .await?;
    alone?;

    let (mut inbox, _) = writer.inbox().await?;
    let message = pgp::encrypted(&writer.address, 2000).bytes();
    writer
        .smtp()
        .await?
        .send(&writer.address, &[&banned.address], &message)
        .await?
        .expect(250)?;
    arrival_of(&mut inbox, "FROM MAILER-DAEMON", Duration::from_secs(60))
        .await
        .context("the mail is not returned")?;

    let list = context
        .run(RELAY, &["chatmail", "account", "list", "--banned"])
        .await?;
    holds(&list, &banned.address)?;
    context
        .run(RELAY, &["chatmail", "account", "unban", &banned.address])
        .await?;
    banned.imap().await.context("after the ban")?;
    let owner = context
        .run(
            RELAY,
            &[
                "stat",
                "-c",
                "%U %a",
                &format!("{}/password", mailboxes::of(&banned)),
            ],
        )
        .await?;
    ensure!(owner.trim() == "vmail 600", "the password file is {owner}");
    Ok(())
}

pub(super) async fn account_life(context: &Context) -> anyhow::Result<()> {
    const CLOSED: &str = "/etc/chatmail-nocreate";
    let peer = context.peer(RELAY)?;
    context.run(RELAY, &["touch", CLOSED]).await?;
    let created = context.run(RELAY, &["chatmail", "account", "create"]).await;
    context.run(RELAY, &["rm", CLOSED]).await?;
    let created = created?;
    let field = |name: &str| {
        let line = created.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
            .with_context(|| format!("no {name}in {created}"))
    };
    let account = Account {
        peer: peer.clone(),
        address: field("Created address: ")?,
        password: field("Password: ")?,
    };
    account.imap().await.context("the new account")?;
    let home = mailboxes::of(&account);
    let made = "cd \"$0\" && stat -c '%U:%G %a %n' . password enforceE2EEincoming";
    let made = context.run(RELAY, &["bash", "-c", made, &home]).await?;
    ensure!(
        made == "vmail:vmail 700 .\nvmail:vmail 600 password\nvmail:vmail 644 enforceE2EEincoming\n",
        "{made}"
    );

    let shown = context
        .run(RELAY, &["chatmail", "account", "show", &account.address])
        .await?;
    holds(&shown, "banned:             no")?;
    ensure!(!shown.contains("ARGON2ID"), "the output contains a hash: {shown}");
    let list = context
        .run(RELAY, &["chatmail", "account", "list", "--json"])
        .await?;
    let list: Vec<serde_json::Value> = serde_json::from_str(&list)?;
    ensure!(
        list.iter()
            .any(|entry| text_at(entry, "/address") == Some(account.address.as_str())),
        "the account is not listed"
    );

    for (wrong, why) in [
        ("../../../etc@x", "names no account"),
        ("somebody@other.test", "is not an address of this relay"),
        ("abcdefghi", "there is no account abcdefghi@"),
    ] {
        let (good, text) = chatmail(context, &["account", "delete", "--yes", wrong]).await?;
        ensure!(!good && text.contains(why), "{wrong}: {text}");
    }
    let mut session = account.imap().await?;
    let (good, text) = chatmail(context, &["account", "delete", &account.address]).await?;
    ensure!(
        !good && text.contains("nothing was removed"),
        "the name server was not queried: {text}"
    );
    context
        .run(
            RELAY,
            &["chatmail", "account", "delete", "--yes", &account.address],
        )
        .await?;
    ended(&mut session)
        .await
        .context("the relay does not close the open session")?;
    let left = "ls -A \"${0%/*}\" | grep -cF \"${0##*/}\" || true";
    let left = context.run(RELAY, &["bash", "-c", left, &home]).await?;
    ensure!(left.trim() == "0", "something is left of {home}");
    account.imap().await.context("the address is free again")?;
    Ok(())
}

pub(super) async fn queue(context: &Context) -> anyhow::Result<()> {
    let sender = context.account(RELAY).await?;
    // A host that refuses connections to port 25, so that Postfix keeps the message.
    let to = format!("{}@queue.test", random_name(9));
    let zone = format!(
        "queue.test. 60 IN SOA queue.test. x.queue.test. 1 60 60 60 0\nqueue.test. 60 IN NS queue.test.\n\
         queue.test. 60 IN A {NAME_SERVER}\n"
    );
    context.machines().publish("queue.test", &zone).await?;
    let message = pgp::encrypted(&sender.address, 2000).bytes();
    sender
        .smtp()
        .await?
        .send(&sender.address, &[&to], &message)
        .await?
        .expect(250)?;
    let find = || async {
        let list = context.run(RELAY, &["chatmail", "queue", "--json"]).await?;
        let list: Vec<serde_json::Value> = serde_json::from_str(&list)?;
        let ours = |entry: &&serde_json::Value| {
            text_at(entry, "/queue_name") == Some("deferred")
                && text_at(entry, "/recipients/0/address") == Some(to.as_str())
        };
        Ok(list
            .iter()
            .find(ours)
            .and_then(|entry| text_at(entry, "/queue_id").map(str::to_owned)))
    };
    let id = until(Duration::from_secs(30), find)
        .await
        .context("nothing is deferred")?;
    holds(
        &context.run(RELAY, &["chatmail", "queue"]).await?,
        &format!("    to {to}\n"),
    )?;
    let shown = context.run(RELAY, &["chatmail", "queue", "show", &id]).await?;
    holds(&shown, "Subject: [...]")?;
    ensure!(!shown.contains("PGP MESSAGE"), "the body is shown");
    let summary = context.run(RELAY, &["chatmail", "queue", "summary"]).await?;
    holds(&summary, "queue.test: 1 recipient(s)\n")?;
    context.run(RELAY, &["chatmail", "queue", "retry", &id]).await?;
    let (good, text) = chatmail(context, &["queue", "drop", "ALL"]).await?;
    ensure!(!good && text.contains("no message \"ALL\""), "{text}");
    context.run(RELAY, &["chatmail", "queue", "drop", &id]).await?;
    ensure!(find().await?.is_none(), "it is still there");
    Ok(())
}

pub(super) async fn status(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let _session = account.imap().await?;
    let (good, text) = chatmail(context, &["status"]).await?;
    ensure!(good && text.ends_with("All is well.\n"), "{text}");
    let json = context.run(RELAY, &["chatmail", "status", "--json"]).await?;
    let json: serde_json::Value = serde_json::from_str(&json)?;
    for number in [
        "/connections/imap",
        "/accounts/active_30_days",
        "/certificate_days",
    ] {
        let value = json.pointer(number).and_then(serde_json::Value::as_u64);
        ensure!(value > Some(0), "{number} is {value:?}: {json}");
    }
    for version in ["/versions/postfix", "/versions/dovecot"] {
        ensure!(text_at(&json, version).is_some(), "no {version}: {json}");
    }
    let revision = context.run(RELAY, &["cat", "/etc/chatmail-version"]).await?;
    ensure!(
        !revision.trim().is_empty() && text_at(&json, "/versions/revision") == Some(revision.trim()),
        "{json}"
    );

    context
        .run(
            RELAY,
            &["systemctl", "stop", "newemail.socket", "newemail.service"],
        )
        .await?;
    let stopped = chatmail(context, &["status"]).await;
    context
        .run(
            RELAY,
            &["systemctl", "start", "newemail.socket", "newemail.service"],
        )
        .await?;
    let (good, text) = stopped?;
    ensure!(!good, "a stopped service is not reported: {text}");
    holds(&text, "newemail.service is inactive")
}

/// Runs `status` and `destinations` while a script has broken something; the outputs.
async fn while_broken(context: &Context, provoke: &str, mend: &str) -> anyhow::Result<(String, String)> {
    context.run(RELAY, &["bash", "-euc", provoke]).await?;
    let status = chatmail(context, &["status"]).await;
    let destinations = chatmail(context, &["destinations"]).await;
    context.run(RELAY, &["bash", "-euc", mend]).await?;
    let ((good, status), (fine, destinations)) = (status?, destinations?);
    ensure!(!good && !fine, "nothing needs attention:\n{status}{destinations}");
    ensure!(!status.contains("All is well"), "{status}");
    // Everything else is still shown.
    for line in ["domain  ", "versions  ", "units  ", "accounts  ", "certificate  "] {
        holds(&status, line)?;
    }
    Ok((status, destinations))
}

/// An input that is damaged or a service that hangs hides nothing else.
pub(super) async fn damaged_inputs(context: &Context) -> anyhow::Result<()> {
    const FILE: &str = "/run/filtermail-outgoing/destinations.json";
    let damage =
        format!("[ -e {FILE} ] || echo '{{}}' >{FILE}; cp -a {FILE} {FILE}.kept; echo damaged >{FILE}");
    let repair = format!("mv {FILE}.kept {FILE}");
    let (status, destinations) = while_broken(context, &damage, &repair).await?;
    holds(&status, "destinations    unknown")?;
    for text in [&status, &destinations] {
        holds(text, &format!("cannot use the figures in {FILE}"))?;
    }

    // The mail system does not answer.
    let (status, destinations) = while_broken(
        context,
        "systemctl kill --signal=STOP --kill-whom=all postfix.service",
        "systemctl kill --signal=CONT --kill-whom=all postfix.service",
    )
    .await?;
    for text in [&status, &destinations] {
        holds(text, "postqueue does not answer within 20 s")?;
    }
    holds(&status, "queue           unknown")?;
    holds(&destinations, "destination ").or_else(|_| holds(&destinations, "Nothing was sent"))?;

    // The service that counts is down; its figures stay.
    let sockets = "filtermail-limit.socket filtermail-deliveries.socket filtermail-outgoing.socket";
    let (_, destinations) = while_broken(
        context,
        &format!("systemctl stop {sockets} filtermail-outgoing.service"),
        &format!("systemctl start {sockets} filtermail-outgoing.service"),
    )
    .await?;
    holds(
        &destinations,
        "filtermail-outgoing.service is inactive: deliveries are not counted",
    )?;
    let (good, text) = chatmail(context, &["destinations"]).await?;
    ensure!(good && !text.contains("ATTENTION"), "{text}");
    Ok(())
}

pub(super) async fn ports(context: &Context) -> anyhow::Result<()> {
    let other = context.peer("b")?.domain;
    let (good, text) = chatmail(context, &["ports", "--mx-of", &other]).await?;
    ensure!(good && !text.contains("FAILED"), "{text}");
    holds(&text, ":443 TLS for imap")?;
    let (good, text) = chatmail(context, &["ports", "--mx-of", "nowhere.test"]).await?;
    ensure!(!good, "a domain without mail servers counts as reachable: {text}");
    holds(&text, "nowhere.test has no mail server")
}
