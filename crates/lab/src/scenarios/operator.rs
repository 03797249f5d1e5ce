//! The operator's command line, run on a relay as its operator runs it.

use anyhow::{Context as _, ensure};

use super::Context;

const RELAY: &str = "a";
/// The lab's name server, which has the relay's zone.
const NAME_SERVER: &str = "198.18.25.2";

/// A command of the relay: whether it ended with 0, and what it printed.
async fn chatmail(context: &Context, arguments: &[&str]) -> anyhow::Result<(bool, String)> {
    let argv = [&["chatmail"], arguments].concat();
    let output = context.machines()?.exec(RELAY, &argv).await?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.success(), text))
}

fn holds(text: &str, wanted: &str) -> anyhow::Result<()> {
    ensure!(text.contains(wanted), "there is no {wanted:?} in:\n{text}");
    Ok(())
}

/// Empties the cache of the relay's resolver. So often in a row that systemd would take it for a service that fails.
async fn forget_answers(context: &Context) -> anyhow::Result<()> {
    for verb in ["reset-failed", "restart"] {
        context
            .run(RELAY, &["systemctl", verb, "unbound.service"])
            .await?;
    }
    Ok(())
}

/// Publishes the relay's zone as changed, with all old answers forgotten, and checks it.
async fn check_zone(
    context: &Context,
    change: impl FnOnce(&str) -> String,
) -> anyhow::Result<(bool, String)> {
    let domain = context.peer(RELAY)?.domain;
    let zone = context.run(RELAY, &["chatmail", "dns", "--zone"]).await?;
    let changed = change(&zone);
    context.machines()?.publish(&domain, &changed).await?;
    forget_answers(context).await?;
    let checked = chatmail(context, &["dns", "--check"]).await;
    context.machines()?.publish(&domain, &zone).await?;
    forget_answers(context).await?;
    checked
}

/// A zone whose name server can be asked.
fn delegated(zone: &str, domain: &str) -> String {
    zone.replace(&format!("IN NS {domain}."), &format!("IN NS ns.{domain}."))
        + &format!("ns.{domain}. IN A {NAME_SERVER}\n")
}

fn without(zone: &str, marks: &[&str]) -> String {
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
    // The lab's zones name the relay itself as their server, which answers nobody: as with a hidden master.
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
    ensure!(!good, "a missing record is no fault:\n{text}");
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
    ensure!(!good, "a missing address is no fault:\n{text}");
    holds(&text, &format!("Missing A and/or AAAA DNS records for {domain}!"))?;
    let (good, text) = check_zone(context, |zone| {
        without(&delegated(zone, &domain), &[&key])
            + &format!("{key}. IN TXT \"v=DKIM1;k=rsa;\" \"p=AAAA\"\n")
    })
    .await?;
    ensure!(!good, "another key is no fault:\n{text}");
    holds(&text, &format!("differs    {key}  TXT  v=DKIM1;"))?;
    holds(&text, "published: v=DKIM1;k=rsa;p=AAAA\n")?;
    let (good, text) = check_zone(context, |zone| delegated(zone, &domain).replace("~all", "-all")).await?;
    ensure!(good, "a recommended record is required:\n{text}");
    holds(
        &text,
        "All required DNS entries are right; 1 recommended one(s) are not.\n",
    )
}

/// What a resolver remembers counts for nothing where the zone's own servers can be asked.
pub(super) async fn dns_old_answers(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines()?;
    let domain = context.peer(RELAY)?.domain;
    let zone = context.run(RELAY, &["chatmail", "dns", "--zone"]).await?;
    let old = delegated(&zone, &domain).replace("v=spf1 a ~all", "v=spf1 mx ~all");
    lab.publish(&domain, &old).await?;
    let (_, before) = chatmail(context, &["dns", "--check"]).await?;
    lab.publish(&domain, &delegated(&zone, &domain)).await?;
    let (good, after) = chatmail(context, &["dns", "--check"]).await?;
    lab.publish(&domain, &zone).await?;
    forget_answers(context).await?;
    holds(&before, "published: v=spf1 mx ~all")?;
    ensure!(good && after.ends_with("verified and correct.\n"), "{after}");
    holds(&after, &format!("does not know {domain} TXT yet")).context("the resolver forgot at once")
}
