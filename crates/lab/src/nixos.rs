//! `cargo lab nixos`: boots whole NixOS systems in place of relays of the lab, and plays scenarios against them.

use std::collections::BTreeSet;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lab_front::rootfs;
use mailtest::client::{arrival, pgp};
use mailtest::run;

use crate::harness::Context;
use crate::machine::{Builder, Lab, Packages, Progress, System, Variant, cache, interrupted};
use crate::scenarios::switch::{Change, Switch, there_and_back};
use crate::{render, scenarios};

/// Time within which a message arrives.
const ARRIVAL: Duration = Duration::from_secs(30);

/// The guide, and its domain.
const GUIDE: &str = "docs/operator-guide.md";
const GUIDE_DOMAIN: &str = "chat.example.org";

/// A NixOS system to boot.
struct Host {
    name: &'static str,
    /// The relay in whose place it boots.
    relay: &'static str,
    /// Its configuration, in the project.
    file: &'static str,
    /// Units that cannot succeed before a scenario has started a server for them.
    pending: &'static [&'static str],
    /// Scenarios to play; none means all that know a relay only by its addresses.
    scenarios: &'static [&'static str],
    /// The configuration with other settings to which it switches under load.
    switches_to: Option<&'static str>,
    /// Whether the host has no IPv4 address.
    ipv6_only: bool,
    /// Whether only the state that the guide names survives the shutdown.
    ephemeral: bool,
}

/// Scenarios for a host that differs from another one in a detail.
const SOME: &[&str] = &[
    "messages-across-relays",
    "messages-on-one-relay",
    "idle-wakes-the-receiver",
    "port-25-needs-tls",
    "port-443-by-alpn",
    "websocket-clients-write-and-wait",
    "web-site",
    "turn-relays",
];

/// Scenarios that need no other relay: those of the lab have only IPv4.
const ALONE: &[&str] = &[
    "messages-on-one-relay",
    "attachment-on-one-relay",
    "metadata-announcements",
    "port-25-needs-tls",
    "client-ports-need-tls-1.3",
    "port-443-by-alpn",
    "websocket-passwords-are-limited",
    "web-site",
    "web-new-address",
];

static HOSTS: [Host; 9] = [
    Host {
        name: "self-signed",
        relay: "a",
        file: "nix/eval/hosts/lab-a.nix",
        pending: &[],
        scenarios: &[],
        switches_to: Some("nix/eval/hosts/lab-a-next.nix"),
        ipv6_only: false,
        ephemeral: false,
    },
    Host {
        name: "minimal",
        relay: "e",
        file: "nix/boot/hosts/minimal.nix",
        pending: &["acme-order-renew-e.test.service"],
        scenarios: &["acme-certificate-is-issued-and-used"],
        switches_to: None,
        ipv6_only: false,
        ephemeral: false,
    },
    Host {
        name: "external-certificate",
        relay: "c",
        file: "nix/eval/hosts/lab-c.nix",
        pending: &[],
        scenarios: &[
            "external-certificate-is-reloaded-on-change",
            "external-certificate-comes-after-the-daemons",
            "own-site-beside-the-relay",
        ],
        switches_to: None,
        ipv6_only: false,
        ephemeral: false,
    },
    Host {
        name: "full",
        relay: "c",
        file: "nix/boot/hosts/full.nix",
        pending: &[],
        scenarios: &["external-certificate-is-reloaded-on-change"],
        switches_to: None,
        ipv6_only: false,
        ephemeral: false,
    },
    Host {
        name: "nftables",
        relay: "a",
        file: "nix/boot/hosts/nftables.nix",
        pending: &[],
        scenarios: SOME,
        switches_to: None,
        ipv6_only: false,
        ephemeral: false,
    },
    Host {
        name: "default-site",
        relay: "c",
        file: "nix/boot/hosts/default-site.nix",
        pending: &[],
        scenarios: &["own-site-beside-the-relay"],
        switches_to: None,
        ipv6_only: false,
        ephemeral: false,
    },
    Host {
        name: "ip-only",
        relay: "d",
        file: "nix/eval/hosts/lab-d.nix",
        pending: &[],
        scenarios: &[
            "ip-only-sign-up",
            "ip-only-messages-across",
            "ip-only-address-cannot-be-forged",
        ],
        switches_to: None,
        ipv6_only: false,
        ephemeral: false,
    },
    Host {
        name: "ipv6-only",
        relay: "a",
        file: "nix/boot/hosts/ipv6-only.nix",
        pending: &[],
        scenarios: ALONE,
        switches_to: None,
        ipv6_only: true,
        ephemeral: false,
    },
    Host {
        name: "ephemeral-root",
        relay: "a",
        file: "nix/eval/hosts/lab-a.nix",
        pending: &[],
        scenarios: SOME,
        switches_to: None,
        ipv6_only: false,
        ephemeral: true,
    },
];

/// Boots NixOS systems and plays scenarios against them. Needs nixpkgs, or its folders lib and nixos
#[derive(Debug, clap::Args)]
pub(crate) struct Nixos {
    /// Hosts to boot (default: self-signed)
    hosts: Vec<String>,
    /// Boots all hosts
    #[arg(long, conflicts_with = "hosts")]
    all: bool,
    /// Lists the hosts without booting them
    #[arg(long, conflicts_with = "all")]
    list: bool,
    /// Release of Debian whose packages the systems contain: sid has newer daemons
    #[arg(long, value_name = "SUITE", default_value = rootfs::SUITE)]
    debian: String,
    /// Keeps the last host running afterwards
    #[arg(long)]
    keep: bool,
}

/// Runs the command; fails if a host does not boot, or fails a check or a scenario.
pub(crate) async fn run(arguments: &Nixos) -> anyhow::Result<ExitCode> {
    if arguments.list {
        for host in &HOSTS {
            println!("{}", host.name);
        }
        return Ok(ExitCode::SUCCESS);
    }
    let chosen = chosen(arguments)?;
    let (lib, tree) = render::nixpkgs().context("no NixOS system was booted")?;
    let mut lab = Lab::up(&Progress::new()).await?;
    let builder = match lab.builder(&lib, &tree, &arguments.debian).await {
        Ok(builder) => builder,
        Err(error) => {
            lab.release().await?;
            return Err(error);
        }
    };
    println!("nixos: the packages are {}", builder.packages());
    let mut failed = 0;
    for (number, host) in chosen.iter().enumerate() {
        let mut topology = lab.topology().clone();
        if host.ipv6_only {
            let address = lab.only_ipv6(host.relay)?;
            let relay = topology.relays.iter_mut().find(|relay| relay.name == host.relay);
            relay.context("no such relay")?.ipv6 = Some(address);
        }
        let context = Context::within(lab, topology, cache()?);
        let started = Instant::now();
        let played = tokio::select! {
            played = play(&context, &builder, host) => played,
            signal = interrupted() => Err(signal),
        };
        lab = context.into_machines();
        let seconds = started.elapsed().as_secs();
        match played {
            Ok(what) => println!("nixos {}: ok, {seconds} s: {what}", host.name),
            Err(error) => {
                failed += 1;
                println!("nixos {}: FAILED, {seconds} s: {error:#}", host.name);
            }
        }
        if arguments.keep && number + 1 == chosen.len() {
            return Ok(exit(failed));
        }
        lab.restore(host.relay).await?;
    }
    lab.release().await?;
    Ok(exit(failed))
}

fn exit(failed: usize) -> ExitCode {
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

fn chosen(arguments: &Nixos) -> anyhow::Result<Vec<&'static Host>> {
    if arguments.all {
        return Ok(HOSTS.iter().collect());
    }
    if arguments.hosts.is_empty() {
        return Ok(HOSTS.iter().take(1).collect());
    }
    let named = |name: &String| {
        let host = HOSTS.iter().find(|host| host.name == name);
        host.with_context(|| format!("no host `{name}`; `cargo lab nixos --list` lists all"))
    };
    arguments.hosts.iter().map(named).collect()
}

/// Boots a host twice and plays everything; returns what was done.
async fn play(context: &Context, builder: &Builder, host: &Host) -> anyhow::Result<String> {
    let lab = context.machines();
    let system = builder.build(host.file, Variant::Plain).await?;
    lab.replace(host.relay, builder, &system).await?;
    let units = healthy(context, host).await.context("after the first boot")?;
    activated_twice(context, host.relay, &system).await?;

    let played = scenarios(context, host).await?;

    let account = context.account(host.relay).await?;
    let message = pgp::encrypted(&account.address, 2000);
    account.submit(&account.address, &message).await?.expect(250)?;
    let (mut imap, _) = account.inbox().await?;
    arrival(&mut imap, message.id(), ARRIVAL).await?;
    lab.power_off(host.relay).await?;
    if host.ephemeral {
        let guide = crate::project::root().join(GUIDE);
        let guide = std::fs::read_to_string(&guide).with_context(|| format!("cannot read {GUIDE}"))?;
        let kept = state_in(&guide, &context.peer(host.relay)?.domain);
        lab.keep_only(host.relay, builder, &kept)?;
    }
    lab.boot_system(host.relay, builder, &system).await?;
    healthy(context, host).await.context("after the second boot")?;
    let (mut imap, _) = account.inbox().await?;
    arrival(&mut imap, message.id(), ARRIVAL)
        .await
        .context("a message after the second boot")?;

    let mut done = format!("{units} units, activated twice, {played} scenarios, booted twice");
    if let Some(other) = host.switches_to {
        let changes = switches(context, builder, host, &system, other).await?;
        done.push_str(&format!(", {changes} times switched under load and back"));
    }
    Ok(done)
}

/// Paths in the guide's table of a relay's state.
fn state_in(guide: &str, domain: &str) -> Vec<String> {
    let section = guide
        .split("\n## ")
        .find(|section| section.starts_with("State\n"));
    let rows = section
        .unwrap_or_default()
        .lines()
        .filter_map(|line| line.split('|').nth(2));
    let path = |text: &str| text.starts_with('/').then(|| text.replace(GUIDE_DOMAIN, domain));
    rows.flat_map(|cell| cell.split('`')).filter_map(path).collect()
}

/// Plays the scenarios of a host; returns their number.
async fn scenarios(context: &Context, host: &Host) -> anyhow::Result<usize> {
    let all = scenarios::all();
    let outer: Vec<_> = mailtest::scenarios::all::<Context>();
    let names: Vec<&str> = match host.scenarios {
        [] => outer.iter().map(|scenario| scenario.name).collect(),
        some => some.to_vec(),
    };
    let chosen: Vec<_> = all
        .iter()
        .filter(|scenario| names.contains(&scenario.name))
        .collect();
    ensure!(
        chosen.len() == names.len(),
        "a scenario of the host does not exist"
    );
    let tally = run::play(context, &chosen).await;
    ensure!(tally.failed == 0, "{} scenarios failed", tally.failed);
    Ok(tally.passed)
}

/// Switches under load to a system with other settings, to one in which only our package is new, to one in which all
/// packages are new, and back each time; returns the number of other systems. To build all packages of nixpkgs again
/// would take days.
async fn switches(
    context: &Context,
    builder: &Builder,
    host: &Host,
    system: &System,
    other: &str,
) -> anyhow::Result<usize> {
    let mut changes = vec![
        (other, Variant::Plain, Change::Settings),
        (host.file, Variant::OtherPackage, Change::OurPackage),
    ];
    if *builder.packages() != Packages::Nixpkgs {
        changes.push((host.file, Variant::OtherRelease, Change::AllPackages));
    }
    let count = changes.len();
    for (file, variant, change) in changes {
        let other = builder.build(file, variant).await?;
        let switch = Real([system.clone(), other]);
        there_and_back(context, &switch, change)
            .await
            .with_context(|| format!("the switch ({change:?})"))?;
        healthy(context, host)
            .await
            .with_context(|| format!("after the switch ({change:?})"))?;
    }
    Ok(count)
}

/// The program of NixOS that switches to a system.
struct Real([System; 2]);

impl Switch for Real {
    async fn to(&self, context: &Context, other: bool) -> anyhow::Result<String> {
        let [first, second] = &self.0;
        let program = format!(
            "{}/bin/switch-to-configuration",
            if other { &second.path } else { &first.path }
        );
        let output = context.machines().exec("a", &[&program, "switch"]).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success(),
            "switch-to-configuration failed ({}):\n{said}",
            output.status
        );
        let kinds = ["stopping", "reloading", "restarting the"];
        let lines = said
            .lines()
            .filter(|line| kinds.iter().any(|kind| line.starts_with(kind)));
        Ok(lines.collect::<Vec<_>>().join("; "))
    }
}

/// Fails if a unit has failed or was restarted, or if systemd found a cycle in the order of units; returns the number of
/// loaded units.
async fn healthy(context: &Context, host: &Host) -> anyhow::Result<usize> {
    let list = ["systemctl", "list-units", "--all", "--plain", "--no-legend"];
    let all = context.run(host.relay, &list).await?;
    let restarts = ["systemctl", "show", "*.service", "--property=Id,NRestarts"];
    let restarts = context.run(host.relay, &restarts).await?;
    let mut complaints = failed(&all);
    complaints.extend(restarted(&restarts));
    complaints.retain(|unit| !host.pending.contains(&unit.as_str()));
    let mut report = String::new();
    for unit in &complaints {
        let log = [
            "journalctl",
            "--quiet",
            "--boot",
            "--output=cat",
            "--lines=10",
            "--unit",
            unit,
        ];
        report.push_str(&format!("\n{unit}:\n{}", context.run(host.relay, &log).await?));
    }
    ensure!(complaints.is_empty(), "units failed or were restarted:{report}");
    let log = ["journalctl", "--quiet", "--boot", "--output=cat", "_PID=1"];
    let log = context.run(host.relay, &log).await?;
    if let Some(cycle) = log.lines().find(|line| line.contains("ordering cycle")) {
        bail!("{cycle}");
    }
    Ok(all.lines().count())
}

/// Units in the list of `systemctl list-units` that have failed, or wait for their next start after a failure.
fn failed(list: &str) -> BTreeSet<String> {
    let bad = |line: &&str| {
        line.split_whitespace()
            .skip(1)
            .take(3)
            .any(|state| ["error", "bad-setting", "failed", "auto-restart"].contains(&state))
    };
    let name = |line: &str| line.split_whitespace().next().map(str::to_owned);
    list.lines().filter(bad).filter_map(name).collect()
}

/// Units that systemd has started again, from `systemctl show --property=Id,NRestarts`.
fn restarted(properties: &str) -> BTreeSet<String> {
    let value = |block: &str, name: &str| {
        let line = block.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
    };
    properties
        .split("\n\n")
        .filter(|block| value(block, "NRestarts=").is_some_and(|count| count != "0"))
        .filter_map(|block| value(block, "Id="))
        .collect()
}

/// What the activation of a system sets: owners, modes and types of files, and the contents of `/etc`. Daemons change
/// files deeper in `/var`.
const STATE: &str = r#"cd /
find bin etc home root srv lib64 -printf '%y %m %u:%g %p %l\n' | sort
find var -maxdepth 3 -printf '%y %m %u:%g %p %l\n' | sort
find etc -type f -exec sha256sum {} + | sort"#;

/// Activates the running system again: it must succeed and change nothing.
async fn activated_twice(context: &Context, relay: &str, system: &System) -> anyhow::Result<()> {
    let state = ["sh", "-c", STATE];
    let before = context.run(relay, &state).await?;
    context
        .run(relay, &[&format!("{}/activate", system.path)])
        .await?;
    let after = context.run(relay, &state).await?;
    let changes = changes(&before, &after);
    ensure!(
        changes.is_empty(),
        "a second activation changes:\n{}",
        changes.join("\n")
    );
    Ok(())
}

/// Lines that are in only one of two sorted lists.
fn changes(before: &str, after: &str) -> Vec<String> {
    let (before, after): (BTreeSet<&str>, BTreeSet<&str>) =
        (before.lines().collect(), after.lines().collect());
    let gone = before.difference(&after).map(|line| format!("- {line}"));
    let new = after.difference(&before).map(|line| format!("+ {line}"));
    gone.chain(new).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failed_units_and_those_that_wait_for_a_restart_are_found() {
        let list = "a.service loaded active running A failed attempt\n\
                    b.service loaded failed failed B\n\
                    c.service loaded activating auto-restart C\n\
                    d.service not-found inactive dead d.service\n";
        assert_eq!(failed(list), ["b.service", "c.service"].map(str::to_owned).into());
    }

    #[test]
    fn restarts_are_counted_for_each_unit() {
        let properties = "Id=a.service\nNRestarts=0\n\nNRestarts=2\nId=b.service\n\nId=c.service\n";
        assert_eq!(restarted(properties), ["b.service".to_owned()].into());
        assert!(restarted("").is_empty());
    }

    #[test]
    fn changes_name_what_is_gone_and_what_is_new() {
        assert!(changes("a\nb\n", "a\nb\n").is_empty());
        assert_eq!(changes("a\nb\n", "a\nc\n"), ["- b", "+ c"]);
    }

    #[test]
    fn state_comes_from_the_table_of_the_guide() {
        let guide = std::fs::read_to_string(crate::project::root().join(GUIDE)).unwrap();
        let kept = state_in(&guide, "a.test");
        for path in [
            "/home/vmail/mail/a.test",
            "/etc/chatmail-nocreate",
            "/var/lib/nixos",
        ] {
            assert!(kept.contains(&path.to_owned()), "{path} is not in {kept:?}");
        }
        assert!(state_in("## Other\n| a | `/b` |\n", "a.test").is_empty());
    }

    #[test]
    fn hosts_have_files_relays_and_scenarios() {
        let all = scenarios::all();
        for host in &HOSTS {
            assert!(crate::project::root().join(host.file).is_file(), "{}", host.file);
            for name in host.scenarios {
                assert!(all.iter().any(|scenario| scenario.name == *name), "{name}");
            }
        }
    }
}
