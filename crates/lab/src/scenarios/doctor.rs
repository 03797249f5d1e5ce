//! `chatmail doctor`: each row breaks one thing, expects exactly these failures, mends it, and expects none.

mod elsewhere;
mod expected;
mod faults;

use anyhow::Context as _;

use self::expected::{expect, name_addresses, publish_names, shell};
use self::faults::{FAULTS, Fault, UNANSWERED, ZONES};
use super::Context;
use super::operator::{delegated, forget_answers};

pub(super) use self::elsewhere::from_another_machine;

pub(super) async fn finds_faults_of_the_host(context: &Context) -> anyhow::Result<()> {
    name_addresses(context).await?;
    for relay in ["a", "c"] {
        expect(context, relay, &[], &[])
            .await
            .with_context(|| format!("before anything is broken on relay {relay}"))?;
    }
    for Fault {
        name,
        relay,
        provoke,
        mend,
        expected,
    } in FAULTS
    {
        shell(context, relay, provoke).await?;
        let found = expect(context, relay, &[], expected).await;
        let mended = shell(context, relay, mend).await;
        found.context(name)?;
        mended.context(name)?;
        let failed: Vec<&str> = expected.iter().map(|(check, _)| *check).collect();
        expect(context, relay, &failed, &[])
            .await
            .with_context(|| format!("{name}: afterwards"))?;
    }
    for relay in ["a", "c"] {
        expect(context, relay, &[], &[])
            .await
            .with_context(|| format!("afterwards on relay {relay}"))?;
    }
    Ok(())
}

pub(super) async fn finds_faults_in_dns(context: &Context) -> anyhow::Result<()> {
    name_addresses(context).await?;
    for (name, relay, change, checks, expected) in ZONES {
        let domain = context.peer(relay)?.domain;
        let zone = context.run(relay, &["chatmail", "dns", "--zone"]).await?;
        let zone = delegated(&zone, &domain);
        let changed = change(&zone, &domain);
        context.machines().publish(&domain, &changed).await?;
        forget_answers(context, relay).await?;
        let found = expect(context, relay, checks, expected).await;
        context.machines().publish(&domain, &zone).await?;
        forget_answers(context, relay).await?;
        found.context(name)?;
        expect(context, relay, checks, &[])
            .await
            .with_context(|| format!("{name}: afterwards"))?;
    }
    let (relay, name, expected) = UNANSWERED;
    let name = format!("{name}.{}", context.peer(relay)?.domain);
    context.machines().publish(&name, "").await?;
    forget_answers(context, relay).await?;
    let found = expect(context, relay, &[expected.0], &[expected]).await;
    context.machines().withdraw(&name).await?;
    forget_answers(context, relay).await?;
    found.context("a name that no server answers for")?;
    expect(context, relay, &[expected.0], &[])
        .await
        .context("a name that no server answers for: afterwards")?;

    let domain = context.peer("a")?.domain;
    for (names, expected) in [
        (&[][..], "198.18.25.11 has no name (PTR record)"),
        (
            &[(11, "other.test")],
            "has the name other.test, which does not resolve to this address",
        ),
    ] {
        publish_names(context, names).await?;
        let found = expect(context, "a", &["reverse-dns"], &[("reverse-dns", expected)]).await;
        name_addresses(context).await?;
        found?;
    }
    expect(context, "a", &["reverse-dns"], &[])
        .await
        .with_context(|| format!("the name of {domain} afterwards"))
}
