//! Figures by destination, in `chatmail destinations`, `chatmail status` and the metrics.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::random_name;
use mailtest::client::outside::DOMAIN;
use mailtest::client::{Account, arrival, pgp};
use mailtest::until;
use serde_json::Value;

use super::Context;

const RELAY: &str = "b";
const OTHER: &str = "a";
const WITHIN: Duration = Duration::from_secs(60);

async fn figures(context: &Context) -> anyhow::Result<Vec<Value>> {
    let json = context
        .run(RELAY, &["chatmail", "destinations", "--json"])
        .await?;
    let json: Value = serde_json::from_str(&json)?;
    let list = json.get("destinations").and_then(Value::as_array);
    Ok(list.context("no list of destinations")?.clone())
}

fn of<'a>(list: &'a [Value], domain: &str) -> Option<&'a Value> {
    list.iter()
        .find(|row| row.get("domain").and_then(Value::as_str) == Some(domain))
}

fn number(row: &Value, field: &str) -> f64 {
    row.pointer(field).and_then(Value::as_f64).unwrap_or_default()
}

async fn submit(sender: &Account, to: &str) -> anyhow::Result<String> {
    let message = pgp::encrypted(&sender.address, 2000);
    sender.submit(to, &message).await?.expect(250)?;
    Ok(message.id().to_owned())
}

/// A delivery, a server that is down and a domain that does not exist.
pub(super) async fn by_destination(context: &Context) -> anyhow::Result<()> {
    let (one, other) = (context.account(RELAY).await?, context.account(OTHER).await?);
    let before = figures(context).await?;
    let before = of(&before, "_a.test").map_or(0.0, |row| number(row, "/sent"));
    let (down, missing) = (
        format!("{}.test", random_name(9)),
        format!("{}.test", random_name(9)),
    );
    let host = context.topology.host;
    let zone = format!("{down}. 60 IN A {host}\n{down}. 60 IN MX 10 {DOMAIN}.\n");
    context.publish_outside().await?;
    context.machines().publish(&down, &zone).await?;
    let start = context.machines().cursor(RELAY).await?;

    let (mut inbox, _) = other.inbox().await?;
    let id = submit(&one, &other.address).await?;
    arrival(&mut inbox, &id, WITHIN).await?;
    submit(&one, &format!("someone@{down}")).await?;
    submit(&one, &format!("someone@{missing}")).await?;

    let counted = || async {
        let list = figures(context).await?;
        let (Some(sent), Some(deferred), Some(bounced)) =
            (of(&list, "_a.test"), of(&list, &down), of(&list, &missing))
        else {
            return Ok(None);
        };
        let all = number(sent, "/sent") > before
            && number(sent, "/mean_seconds") > 0.0
            && number(sent, "/p99_seconds") > 0.0
            && number(deferred, "/deferred") >= 1.0
            && number(deferred, "/queued") >= 1.0
            && number(deferred, "/reasons/4.4.1 no connection") >= 1.0
            && number(bounced, "/bounced") >= 1.0
            && number(bounced, "/reasons/5.1.2 no such domain") >= 1.0
            && number(bounced, "/queued") == 0.0;
        Ok(all.then_some(()))
    };
    if let Err(error) = until(WITHIN, counted).await {
        let list = figures(context).await?;
        return Err(error.context(format!("{list:?}")));
    }

    for command in ["destinations", "status"] {
        let script = format!("chatmail {command} || true");
        let text = context.run(RELAY, &["sh", "-c", &script]).await?;
        ensure!(text.contains("_a.test ") && !text.contains('@'), "{text}");
        ensure!(text.contains(" destination(s), since "), "{text}");
        let long = text.lines().find(|line| line.chars().count() > 80);
        ensure!(long.is_none(), "{long:?}");
    }
    let metrics = context
        .run(RELAY, &["curl", "-sSf", "http://127.0.0.1:3906/metrics"])
        .await?;
    for line in [
        format!("chatmail_destination_failures_total{{domain=\"{down}\",reason=\"4.4.1 no connection\"}} "),
        format!("chatmail_destination_waiting{{domain=\"{down}\"}} 1"),
        "chatmail_destination_delay_seconds{domain=\"_a.test\",quantile=\"0.99\"} ".to_owned(),
        "chatmail_destination_deliveries_total{domain=\"other\",result=\"sent\"} ".to_owned(),
    ] {
        ensure!(metrics.contains(&line), "no {line}: {metrics}");
    }

    // What Postfix says about servers is still logged, without names of users.
    let said = format!("connect to {DOMAIN}[{host}]:25");
    context
        .machines()
        .follow(RELAY, Some("filtermail-outgoing"), &start, &said, WITHIN)
        .await?;
    // A restart loses no figures, and a kill only those of the last seconds; neither loses messages.
    for signal in ["TERM", "KILL"] {
        let signal = format!("--signal={signal}");
        context
            .run(RELAY, &["systemctl", "kill", &signal, "filtermail-outgoing"])
            .await?;
        let id = submit_again(&one, &other.address).await?;
        arrival(&mut inbox, &id, WITHIN).await?;
    }
    // Other scenarios wait for an empty queue.
    context.run(RELAY, &["postsuper", "-d", "ALL"]).await?;
    until(WITHIN, || async {
        let list = figures(context).await?;
        let sent = of(&list, "_a.test").map_or(0.0, |row| number(row, "/sent"));
        Ok((sent >= before + 2.0).then_some(()))
    })
    .await
    .context("a restart loses figures")
}

/// Submits until the filter runs again.
async fn submit_again(sender: &Account, to: &str) -> anyhow::Result<String> {
    until(WITHIN, || async {
        let message = pgp::encrypted(&sender.address, 2000);
        let reply = sender.submit(to, &message).await?;
        Ok(reply.is_positive().then(|| message.id().to_owned()))
    })
    .await
}
