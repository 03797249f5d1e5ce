//! The dashboard and the alerts, with a Prometheus server that scrapes a relay.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::until;
use serde_json::Value;

use super::figures::{RELAY, own_services, storage_report};
use super::prometheus::{Prometheus, documented, promtool};
use crate::scenarios::Context;

/// Time within which panels have data.
const WITHIN: Duration = Duration::from_secs(60);

/// Returns the title and the expression of each panel.
fn expressions(panels: &Value) -> Vec<(String, String)> {
    let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
    let text = |value: &Value, key: &str| {
        value
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let mut found = Vec::new();
    for panel in list(panels) {
        for target in list(panel.get("targets").unwrap_or(&Value::Null)) {
            // The value that Grafana inserts for a scrape interval of one second.
            let expression = text(&target, "expr").replace("$__rate_interval", "1m");
            found.push((text(&panel, "title"), expression));
        }
    }
    found
}

/// Every expression of the dashboard is valid and has data after some traffic, and Prometheus accepts the alerts.
pub(in crate::scenarios) async fn has_data(context: &Context) -> anyhow::Result<()> {
    promtool(&["check", "rules", &documented("alerts.yml").display().to_string()]).await?;
    promtool(&[
        "test",
        "rules",
        &documented("alerts-test.yml").display().to_string(),
    ])
    .await?;
    let file = documented("chatmail.json");
    let dashboard: Value = serde_json::from_str(&fs::read_to_string(&file)?)
        .with_context(|| format!("cannot read {}", file.display()))?;
    let expressions = expressions(dashboard.get("panels").context("no panels")?);
    ensure!(
        expressions.len() > 20,
        "only {} expressions were found",
        expressions.len()
    );

    let prometheus = Prometheus::start(context).await?;
    let ready = || async { Ok(prometheus.is_ready().await?.then_some(())) };
    until(WITHIN, ready).await.context("Prometheus does not start")?;
    own_services(context).await?;
    storage_report(context).await?;
    // Mail to the other relay, which mtail counts.
    let (sender, receiver) = (context.account(RELAY).await?, context.account("b").await?);
    let message = mailtest::client::pgp::encrypted(&sender.address, 1000);
    sender.submit(&receiver.address, &message).await?.expect(250)?;
    // A destination that fails at once, and leaves nothing in the queue.
    let nowhere = format!("someone@{}.test", mailtest::client::message::random_name(9));
    sender.submit(&nowhere, &message).await?.expect(250)?;

    let all_up = || async {
        let up = prometheus.query("up == 1").await?;
        Ok((up.len() == prometheus.targets()).then_some(()))
    };
    if let Err(error) = until(WITHIN, all_up).await {
        let up = prometheus.query("up").await?;
        return Err(error.context(format!("not every target is up: {up:#?}")));
    }
    for (title, expression) in &expressions {
        let some = || async { Ok((!prometheus.query(expression).await?.is_empty()).then_some(())) };
        until(WITHIN, some)
            .await
            .with_context(|| format!("the panel {title:?} has no data: {expression}"))?;
    }
    Ok(())
}
