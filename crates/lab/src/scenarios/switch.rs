//! Relay a switches to another system and back while users write: no message is lost or returned.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::{Account, Peer};
use mailtest::until;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::kill::state;
use crate::harness::writing::{Chat, EVERYWHERE, Writers};

const RELAY: &str = "a";
const NOW: &str = "a";
/// The same relay with other settings.
const OTHER_SETTINGS: &str = "a-next";

/// Switches relay a between two systems.
pub(crate) trait Switch {
    /// Switches to the other system, or back to the first; returns what was done.
    async fn to(&self, context: &Context, other: bool) -> anyhow::Result<String>;
}

/// What is different in the other system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Change {
    /// Settings of every daemon, which they reload.
    Settings,
    /// Our package. Daemons only reload.
    OurPackage,
    /// All packages, so that every daemon restarts.
    AllPackages,
}

/// The lab's imitation of a switch to other settings.
struct Imitated;

impl Switch for Imitated {
    async fn to(&self, context: &Context, other: bool) -> anyhow::Result<String> {
        let (from, to) = if other {
            (NOW, OTHER_SETTINGS)
        } else {
            (OTHER_SETTINGS, NOW)
        };
        let plan = context.machines().switch(RELAY, from, to).await?;
        Ok(plan.to_string())
    }
}

/// Daemons that reload new settings while they run.
const RELOADED: [&str; 3] = ["dovecot.service", "nginx.service", "postfix.service"];
/// Services that restart for new settings, and those of them with a socket.
const RESTARTED: [&str; 9] = [
    "chatmail-metadata",
    "chatmail-websocket",
    "doveauth",
    "filtermail-incoming",
    "filtermail-mxdeliv",
    "filtermail-outgoing",
    "filtermail-transport",
    "lastlogin",
    "newemail",
];
/// Sessions in IDLE on each of the ports 993 and 443.
const IDLERS: usize = 5;
/// By default, Dovecot closes sessions with old settings 6 s after a reload (`SERVICE_DIE_TIMEOUT_MSECS`).
const OUTLIVED: Duration = Duration::from_secs(8);
/// Number of Dovecot reloads during delivery, their interval, and the number of recipients.
const RELOADS: usize = 30;
const RELOAD_PACE: Duration = Duration::from_millis(500);
const RECEIVERS: usize = 12;
/// Time within which clients see the new settings.
const IN_EFFECT: Duration = Duration::from_secs(10);

/// IMAP sessions that wait for mail.
struct Idlers {
    stop: CancellationToken,
    tasks: JoinSet<bool>,
}

impl Idlers {
    async fn gather(context: &Context) -> anyhow::Result<Self> {
        let mut idlers = Self {
            stop: CancellationToken::new(),
            tasks: JoinSet::new(),
        };
        let peer = context.peer(RELAY)?;
        for _ in 0..IDLERS {
            let account = context.account(RELAY).await?;
            let multiplexed = peer.tls.clone().alpn("imap");
            for imap in [
                peer.imap().await?,
                Imap::connect_tls(peer.port(443), &multiplexed, &peer.domain).await?,
            ] {
                idlers.add(imap, &account).await?;
            }
        }
        Ok(idlers)
    }

    async fn add(&mut self, mut imap: Imap, account: &Account) -> anyhow::Result<()> {
        imap.login(&account.address, &account.password).await?.ok()?;
        imap.select_inbox().await?;
        let stop = self.stop.clone();
        let (ready, waits) = tokio::sync::oneshot::channel();
        self.tasks.spawn(async move {
            let Ok(idle) = imap.idle().await else { return false };
            if ready.send(()).is_err() {
                return false;
            }
            stop.cancelled().await;
            // If this succeeds, the session still works; otherwise, a client would have to reconnect.
            let Ok(imap) = idle.done().await else { return false };
            imap.command("NOOP").await.is_ok()
        });
        waits.await.context("a session cannot wait for mail")
    }

    /// Returns the number of sessions, and of those that have to reconnect after the time at which Dovecot by default
    /// closes sessions with old settings.
    async fn count(mut self, reload: Instant) -> anyhow::Result<(usize, usize)> {
        // No event signals that a session stays open.
        tokio::time::sleep_until(reload + OUTLIVED).await;
        self.stop.cancel();
        let (mut all, mut lost) = (0, 0);
        while let Some(works) = self.tasks.join_next().await {
            all += 1;
            lost += usize::from(!works?);
        }
        Ok((all, lost))
    }
}

/// Returns systemd's invocation ID of a unit.
async fn invocation(context: &Context, unit: &str) -> anyhow::Result<String> {
    context
        .run(RELAY, &["systemctl", "show", "--property=InvocationID", unit])
        .await
}

/// Invocation IDs of all units.
#[derive(Debug, PartialEq, Eq)]
struct Runs {
    daemons: Vec<String>,
    services: Vec<String>,
    sockets: Vec<String>,
}

impl Runs {
    async fn of(context: &Context) -> anyhow::Result<Self> {
        let mut runs = Self {
            daemons: Vec::new(),
            services: Vec::new(),
            sockets: Vec::new(),
        };
        for unit in RELOADED {
            runs.daemons.push(state(context, RELAY, unit).await?.0);
        }
        for name in RESTARTED {
            runs.services
                .push(state(context, RELAY, &format!("{name}.service")).await?.0);
            runs.sockets
                .push(invocation(context, &format!("{name}.socket")).await?);
        }
        Ok(runs)
    }
}

/// Switches while users write and others wait for mail; returns the invocations before and after, and the number of
/// broken sessions.
async fn under_load(
    context: &Context,
    chat: &mut Chat<'_>,
    switch: &impl Switch,
    other: bool,
) -> anyhow::Result<(Runs, Runs, usize)> {
    let idlers = Idlers::gather(context).await?;
    let before = Runs::of(context).await?;
    chat.both_write("before").await?;
    let plan = switch.to(context, other).await?;
    let reload = Instant::now();
    chat.both_write("after").await?;
    let after = Runs::of(context).await?;
    for unit in RELOADED {
        let (_, active) = state(context, RELAY, unit).await?;
        ensure!(active == "active", "{unit} is {active} after the switch");
    }
    let (all, lost) = idlers.count(reload).await?;
    println!("    the switch {plan}; {lost} of {all} waiting sessions broke");
    ensure!(before.sockets == after.sockets, "a socket was closed");
    ensure!(
        before
            .services
            .iter()
            .zip(&after.services)
            .all(|(before, after)| before != after),
        "a service was not restarted"
    );
    Ok((before, after, lost))
}

/// Switches to another system and back, with mail traffic all the time. Daemons that reload must keep their processes
/// and every session.
pub(crate) async fn there_and_back(
    context: &Context,
    switch: &impl Switch,
    change: Change,
) -> anyhow::Result<()> {
    let reloads = change != Change::AllPackages;
    let mut chat = Chat::begin(context).await?;
    let writers = Writers::begin(context, &EVERYWHERE).await?;
    let switches = async {
        let mut kept = true;
        for other in [true, false] {
            let (before, after, lost) = under_load(context, &mut chat, switch, other).await?;
            kept &= before.daemons == after.daemons && lost == 0;
            if change == Change::Settings {
                in_effect(&context.peer(RELAY)?, other).await?;
                metrics_in_effect(context, other).await?;
            }
        }
        anyhow::Ok(kept)
    };
    let kept = switches.await;
    let tally = writers.finish(context).await?;
    println!("    {tally}");
    ensure!(
        kept? == reloads || !reloads,
        "a daemon was restarted, or dropped sessions"
    );
    chat.all_arrived().await
}

/// Waits until Postfix announces the size limit of the new system.
async fn in_effect(peer: &Peer, other: bool) -> anyhow::Result<()> {
    let want = if other { "SIZE 20971520" } else { "SIZE 52428800" };
    let announced = || async {
        let smtp = peer.submission().await?;
        Ok(smtp.extensions().iter().any(|line| line == want).then_some(()))
    };
    until(IN_EFFECT, announced)
        .await
        .with_context(|| format!("Postfix does not announce {want}"))
}

/// Services offer metrics on an address of the new system that is added only later: they do not wait for the address,
/// and do not fail without it.
async fn metrics_in_effect(context: &Context, later: bool) -> anyhow::Result<()> {
    const LATER: Ipv4Addr = Ipv4Addr::new(198, 18, 25, 21);
    let own = format!("{LATER}/32");
    let address = if later {
        context
            .run(RELAY, &["ip", "address", "add", &own, "dev", "eth0"])
            .await?;
        LATER.into()
    } else {
        context.peer(RELAY)?.port(0).ip()
    };
    // From inside: whoever runs Prometheus on another machine opens the ports in the firewall.
    let url = format!("http://{address}:[3903-3913]/metrics");
    let ask = [
        "curl",
        "--silent",
        "--fail",
        "--fail-early",
        "--output",
        "/dev/null",
        &url,
    ];
    let served = || async {
        let answers = context.machines().exec(RELAY, &ask).await?;
        Ok(answers.status.success().then_some(()))
    };
    let served = until(IN_EFFECT, served).await;
    if later {
        context
            .run(RELAY, &["ip", "address", "delete", &own, "dev", "eth0"])
            .await?;
    }
    served.with_context(|| format!("not all services offer metrics on {address}"))
}

/// New settings: Postfix, Dovecot and nginx keep running, and so do their sessions.
pub(super) async fn settings(context: &Context) -> anyhow::Result<()> {
    there_and_back(context, &Imitated, Change::Settings).await
}

/// Dovecot reloads repeatedly during delivery, as it does for every new certificate: no message arrives twice, and no
/// login is rejected.
pub(super) async fn reload(context: &Context) -> anyhow::Result<()> {
    let writers = Writers::begin(context, &[(RELAY, RELAY); RECEIVERS]).await?;
    let mut pace = tokio::time::interval(RELOAD_PACE);
    let reloads = async {
        for _ in 0..RELOADS {
            pace.tick().await;
            context
                .run(RELAY, &["systemctl", "reload", "dovecot.service"])
                .await?;
        }
        anyhow::Ok(())
    };
    let done = reloads.await;
    let tally = writers.finish(context).await?;
    println!("    {RELOADS} reloads; {tally}");
    ensure!(tally.refused == 0, "the relay rejected a correct password");
    done
}
