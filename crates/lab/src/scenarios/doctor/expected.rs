//! Runs doctor, and compares what it reports.

use std::collections::BTreeSet;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::until;
use serde_json::Value;

use super::super::Context;
use super::super::operator::{delegated, forget_answers};

/// Names of the relays' addresses.
const REVERSE_ZONE: &str = "25.18.198.in-addr.arpa";
/// Time until the relay is in the state of a row: daemons start and reload.
const SETTLED: Duration = Duration::from_secs(60);

/// The relays on which doctor runs, and the last parts of their addresses.
const RELAYS: [(&str, u8); 3] = [("a", 11), ("c", 13), ("e", 15)];

/// Runs doctor on a relay; returns its report.
async fn doctor(context: &Context, relay: &str, arguments: &[&str]) -> anyhow::Result<Value> {
    // The folder of the stand-in for ssh, while there is one.
    let path = "PATH=/run/lab-ssh:$PATH exec \"$@\"";
    let common = [
        "bash", "-c", path, "bash", "chatmail", "doctor", "--json", "--mx-of", "_b.test",
    ];
    let output = context
        .machines()
        .exec(relay, &[&common, arguments].concat())
        .await?;
    let report: Value = serde_json::from_slice(&output.stdout)
        .with_context(|| String::from_utf8_lossy(&output.stderr).into_owned())?;
    let good = report.get("ok") == Some(&Value::Bool(true));
    ensure!(
        output.status.code() == Some(i32::from(!good)),
        "doctor exits with {}: {report:#}",
        output.status
    );
    Ok(report)
}

/// The lines that report a failure.
fn failures(report: &Value) -> Vec<(String, String)> {
    let text = |line: &Value, key: &str| {
        line.get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let lines = report
        .get("checks")
        .and_then(Value::as_array)
        .into_iter()
        .flatten();
    lines
        .filter(|line| text(line, "state") == "failed")
        .map(|line| (text(line, "check"), text(line, "text")))
        .collect()
}

/// Waits until doctor reports exactly these failures: names of checks, and a part of a text of each.
pub(super) async fn expect(
    context: &Context,
    relay: &str,
    arguments: &[&str],
    expected: &[(&str, &str)],
) -> anyhow::Result<()> {
    let wanted: BTreeSet<&str> = expected.iter().map(|(check, _)| *check).collect();
    let look = || async {
        let found = failures(&doctor(context, relay, arguments).await?);
        let names: BTreeSet<&str> = found.iter().map(|(check, _)| check.as_str()).collect();
        let said = |(check, part): &(&str, &str)| {
            found
                .iter()
                .any(|(name, text)| name == check && text.contains(part))
        };
        Ok((names == wanted && expected.iter().all(said)).then_some(()))
    };
    if until(SETTLED, look).await.is_err() {
        let report = doctor(context, relay, arguments).await?;
        anyhow::bail!(
            "expected {expected:?}, but doctor reports {:#?}",
            failures(&report)
        );
    }
    Ok(())
}

pub(super) async fn publish_names(context: &Context, names: &[(u8, &str)]) -> anyhow::Result<()> {
    let mut zone = format!(
        "{REVERSE_ZONE}. 60 IN SOA dns.lab. x.dns.lab. 1 60 60 60 1\n{REVERSE_ZONE}. 60 IN NS dns.lab.\n"
    );
    for (last, name) in names {
        zone.push_str(&format!("{last}.{REVERSE_ZONE}. 60 IN PTR {name}.\n"));
    }
    context.machines().publish(REVERSE_ZONE, &zone).await?;
    for (relay, _) in RELAYS {
        forget_answers(context, relay).await?;
    }
    Ok(())
}

/// Publishes the right names of all addresses, and the zone of each relay with a name server that responds: without one,
/// each run waits for it.
pub(super) async fn name_addresses(context: &Context) -> anyhow::Result<()> {
    let mut names = Vec::new();
    for (relay, last) in RELAYS {
        let domain = context.peer(relay)?.domain;
        let zone = context.run(relay, &["chatmail", "dns", "--zone"]).await?;
        context
            .machines()
            .publish(&domain, &delegated(&zone, &domain))
            .await?;
        names.push((last, domain));
    }
    let names: Vec<_> = names.iter().map(|(last, name)| (*last, name.as_str())).collect();
    publish_names(context, &names).await
}

pub(super) async fn shell(context: &Context, relay: &str, script: &str) -> anyhow::Result<()> {
    context.run(relay, &["bash", "-euc", script]).await.map(drop)
}
