//! `mailtest test` and `mailtest ping`, which `chatmail test` and `chatmail ping` run, against relays of the lab.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::Account;
use mailtest::ping::{Pair, Times};
use mailtest::topology::{Login, Topology};
use mailtest::{live, run, scenarios, until};

use super::Context;

/// Messages that are measured; fewer than an account may send at once.
const MESSAGES: u64 = 5;
/// Time within which a restarted service works.
const READY: Duration = Duration::from_secs(30);

/// Tests that need no Delta Chat, on a relay that asks for an invitation; names of those that fail.
pub(super) async fn with_invitation(
    context: &Context,
    relay: &str,
    token: Option<&str>,
) -> anyhow::Result<Vec<String>> {
    let mut topology = found(context, relay, relay)?;
    for relay in &mut topology.relays {
        relay.invitation = token.map(str::to_owned);
    }
    let wanted = [
        "sign-up",
        "messages-notify-at-once",
        "web-site",
        "encrypted-messages",
    ];
    Ok(failed(context, topology, |name, _| wanted.contains(&name)).await)
}

/// Plays the tests that are wanted; names and reasons of those that fail.
async fn failed(
    context: &Context,
    topology: Topology,
    wanted: impl Fn(&str, &Topology) -> bool,
) -> Vec<String> {
    let there = mailtest::Context::new(topology, context.cache().to_owned());
    let mut failed = Vec::new();
    for scenario in scenarios::live::all() {
        if wanted(scenario.name, &there.topology) {
            let outcome = run::attempt(&there, &scenario).await;
            failed.extend(
                outcome
                    .failure
                    .map(|reason| format!("{}: {reason}", outcome.scenario)),
            );
        }
    }
    failed
}

/// All tests, with accounts that exist on the first relay; names of those that fail.
pub(super) async fn with_accounts(
    context: &Context,
    one: &str,
    other: &str,
    accounts: &[&Account],
) -> anyhow::Result<Vec<String>> {
    let mut topology = found(context, one, other)?;
    for relay in topology.relays.iter_mut().filter(|relay| relay.name == "a") {
        relay.accounts = accounts
            .iter()
            .map(|account| Login {
                address: account.address.clone(),
                password: account.password.clone(),
            })
            .collect();
    }
    live::check_accounts(&topology).await?;
    // The lab starts iroh-relay for other scenarios only.
    let wanted = |name: &str, topology: &Topology| {
        name != "iroh" && scenarios::live::skipped(name, topology).is_none()
    };
    Ok(failed(context, topology, wanted).await)
}

/// Two relays as `mailtest` finds them by DNS, for which the lab's name server has to answer.
fn found(context: &Context, one: &str, other: &str) -> anyhow::Result<Topology> {
    let mut relays = Vec::new();
    for (name, relay) in [("a", one), ("b", other)] {
        let relay = context
            .topology
            .relay(relay)
            .with_context(|| format!("no relay {relay}"))?;
        let mut relay = relay.clone();
        relay.certificate = live::certificate(&relay.domain);
        relay.name = name.to_owned();
        relays.push(relay);
    }
    Ok(Topology {
        relays,
        ..context.topology.clone()
    })
}

/// Runs all tests; returns the names of those that fail, with the reasons.
async fn failures(context: &Context, one: &str, other: &str) -> anyhow::Result<Vec<(String, String)>> {
    let there = mailtest::Context::new(found(context, one, other)?, context.cache().to_owned());
    let mut failed = Vec::new();
    for scenario in scenarios::live::all() {
        let outcome = run::attempt(&there, &scenario).await;
        failed.extend(
            outcome
                .failure
                .map(|reason| (outcome.scenario.to_owned(), reason)),
        );
    }
    Ok(failed)
}

pub(super) async fn tests(context: &Context) -> anyhow::Result<()> {
    // Delta Chat trusts only public authorities, so relays of the lab with a CA of its own are left out.
    for (one, other) in [("a", "b")] {
        let failed = failures(context, one, other).await?;
        ensure!(failed.is_empty(), "from {one} to {other}: {failed:?}");
    }
    let units = ["newemail.socket", "newemail.service"];
    context
        .run("b", &[&["systemctl", "stop"][..], &units].concat())
        .await?;
    let broken = failures(context, "b", "b").await;
    context
        .run("b", &[&["systemctl", "start"][..], &units].concat())
        .await?;
    let broken = broken?;
    let names: Vec<_> = broken.iter().map(|(name, _)| name.as_str()).collect();
    ensure!(names == ["web-site"], "without newemail, these fail: {broken:?}");
    Ok(())
}

pub(super) async fn ping(context: &Context) -> anyhow::Result<()> {
    let topology = found(context, "a", "b")?;
    let peer = |name| mailtest::client::Peer::of(&topology, name);
    let pair = Pair::sign_up(&peer("a")?, &peer("b")?).await?;
    let mut times = Times::default();
    for number in 1..=MESSAGES {
        times.add(&pair.probe(number).await);
    }
    let summary = times.summary();
    ensure!(
        summary.sent == MESSAGES && summary.lost == 0 && summary.min > Some(0.0) && summary.max < Some(60.0),
        "{}",
        summary.text()
    );
    context
        .run("a", &["systemctl", "stop", "postfix.service"])
        .await?;
    let lost = pair.probe(MESSAGES + 1).await;
    context
        .run("a", &["systemctl", "start", "postfix.service"])
        .await?;
    ensure!(lost.failure.is_some(), "without Postfix: {}", lost.text());
    times.add(&lost);
    ensure!(times.summary().lost == 1, "{}", times.summary().text());
    let again = || async { Ok(pair.probe(MESSAGES + 2).await.seconds) };
    until(READY, again).await.context("afterwards").map(drop)
}
