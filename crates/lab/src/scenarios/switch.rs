//! Relay a becomes another system and the former one again while people write: nothing is lost or returned.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Imap;
use mailtest::client::{Account, Peer, http};
use mailtest::until;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::kill::state;
use crate::harness::writing::{Chat, EVERYWHERE, Writers};
use crate::machine::SystemOf;

const RELAY: &str = "a";
const NOW: SystemOf<'static> = SystemOf {
    host: "a",
    release: None,
};
/// The same relay with other settings.
const OTHER_SETTINGS: SystemOf<'static> = SystemOf {
    host: "a-next",
    release: None,
};
/// The same relay from other packages.
const OTHER_RELEASE: SystemOf<'static> = SystemOf {
    host: "a",
    release: Some("next"),
};
/// Daemons that take over new settings while they run.
const RELOADED: [&str; 3] = ["dovecot.service", "nginx.service", "postfix.service"];
/// Services that start with new settings, and those of them with a socket.
const RESTARTED: [&str; 8] = [
    "chatmail-metadata",
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
/// Unless told otherwise, Dovecot ends sessions with former settings 6 s after a reload (`SERVICE_DIE_TIMEOUT_MSECS`).
const OUTLIVED: Duration = Duration::from_secs(8);
/// How often Dovecot reloads while it delivers, how soon after another, and to how many people.
const RELOADS: usize = 30;
const RELOAD_PACE: Duration = Duration::from_millis(500);
const RECEIVERS: usize = 12;
/// How long the new settings may take to be seen by clients.
const IN_EFFECT: Duration = Duration::from_secs(10);

/// Sessions that wait for mail.
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
            // It works on if this succeeds, and a client would have to connect again else.
            let Ok(imap) = idle.done().await else { return false };
            imap.command("NOOP").await.is_ok()
        });
        waits.await.context("a session cannot wait for mail")
    }

    /// How many sessions there were, and how many of them have to connect again once Dovecot would have ended those with
    /// former settings.
    async fn count(mut self, reload: Instant) -> anyhow::Result<(usize, usize)> {
        // That nothing happens is no event to wait for.
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

/// What systemd calls this run of a unit.
async fn invocation(context: &Context, unit: &str) -> anyhow::Result<String> {
    context
        .run(RELAY, &["systemctl", "show", "--property=InvocationID", unit])
        .await
}

/// Which runs of which units there are.
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

/// Switches while people write and others wait for mail; gives the runs before and after, and the sessions that broke.
async fn under_load(
    context: &Context,
    chat: &mut Chat<'_>,
    from: &SystemOf<'_>,
    to: &SystemOf<'_>,
) -> anyhow::Result<(Runs, Runs, usize)> {
    let idlers = Idlers::gather(context).await?;
    let before = Runs::of(context).await?;
    chat.both_write("before").await?;
    let plan = context.machines().switch(RELAY, from, to).await?;
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
        "a service runs as before"
    );
    Ok((before, after, lost))
}

/// Both ways between two systems, with mail under way all the time. Daemons that reload must be the same processes and
/// keep every session.
async fn there_and_back(context: &Context, other: &SystemOf<'_>, reloads: bool) -> anyhow::Result<()> {
    let mut chat = Chat::begin(context).await?;
    let writers = Writers::begin(context, &EVERYWHERE).await?;
    let switches = async {
        let mut kept = true;
        for (from, to) in [(&NOW, other), (other, &NOW)] {
            let (before, after, lost) = under_load(context, &mut chat, from, to).await?;
            kept &= before.daemons == after.daemons && lost == 0;
            if to.host != from.host {
                in_effect(&context.peer(RELAY)?, to).await?;
                metrics_in_effect(context, to).await?;
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

/// The limit that Postfix announces is the one of the new system.
async fn in_effect(peer: &Peer, system: &SystemOf<'_>) -> anyhow::Result<()> {
    let want = match system.host {
        "a" => "SIZE 52428800",
        _ => "SIZE 20971520",
    };
    let announced = || async {
        let smtp = peer.submission().await?;
        Ok(smtp.extensions().iter().any(|line| line == want).then_some(()))
    };
    until(IN_EFFECT, announced)
        .await
        .with_context(|| format!("Postfix does not announce {want}"))
}

/// Metrics are served at the address of the new system, which comes up only now: nothing waits for it, and nothing has
/// failed for want of it.
async fn metrics_in_effect(context: &Context, system: &SystemOf<'_>) -> anyhow::Result<()> {
    const LATER: Ipv4Addr = Ipv4Addr::new(198, 18, 25, 21);
    let own = format!("{LATER}/32");
    let later = system.host != "a";
    let address = if later {
        context
            .run(RELAY, &["ip", "address", "add", &own, "dev", "eth0"])
            .await?;
        LATER.into()
    } else {
        context.peer(RELAY)?.port(0).ip()
    };
    let served = || async {
        for port in 3903..=3912 {
            match http::get_plain((address, port).into(), "metrics", "/metrics").await {
                Ok(answer) if answer.status == 200 => {}
                _ => return Ok(None),
            }
        }
        Ok(Some(()))
    };
    let served = until(IN_EFFECT, served).await;
    if later {
        context
            .run(RELAY, &["ip", "address", "delete", &own, "dev", "eth0"])
            .await?;
    }
    served.with_context(|| format!("not all metrics are served at {address}"))
}

/// Other settings: Postfix, Dovecot and nginx go on, and so do their sessions.
pub(super) async fn settings(context: &Context) -> anyhow::Result<()> {
    there_and_back(context, &OTHER_SETTINGS, true).await
}

/// Other packages: everything restarts, and clients at most connect again.
pub(super) async fn release(context: &Context) -> anyhow::Result<()> {
    there_and_back(context, &OTHER_RELEASE, false).await
}

/// Dovecot reloads again and again while it delivers, as it does with every new certificate: nothing comes twice and
/// nobody is refused.
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
    ensure!(tally.refused == 0, "a right password was refused");
    done
}
