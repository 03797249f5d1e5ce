//! Calls: a TURN client with the credentials of an account relays data through the relay's coturn.

use std::process::Output;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, bail, ensure};
use mailtest::client::Account;
use mailtest::until;

use super::Context;

/// The relay with the TURN server.
const RELAY: &str = "a";
/// Machines of the client and of its peer.
const CLIENT: &str = "b";
const PEER: &str = "c";

/// Port of the peer, which echoes everything.
const PEER_PORT: &str = "3480";
/// Unit of the peer.
const PEER_UNIT: &str = "lab-turn-peer";
/// Options of the client: the transport to the server, and the kind of allocation.
const OVER_UDP: &[&str] = &[];
const OVER_TCP: &[&str] = &["-t"];
const CONNECTIONS: &[&str] = &["-T"];
/// Number of messages that the client sends.
const MESSAGES: &str = "5";

/// A TURN server with credentials for it.
struct Access {
    host: String,
    user: String,
    password: String,
}

impl Access {
    /// Gets credentials for a new account.
    async fn announced(context: &Context) -> anyhow::Result<Self> {
        Self::of(&context.account(RELAY).await?).await
    }

    async fn of(account: &Account) -> anyhow::Result<Self> {
        let turn = account
            .imap()
            .await?
            .server_metadata("/shared/vendor/deltachat/turn")
            .await?
            .context("no TURN server is announced")?;
        let [host, "3478", user, password] = turn.split(':').collect::<Vec<_>>()[..] else {
            bail!("the TURN server is announced as {turn:?}");
        };
        Ok(Self {
            host: host.to_owned(),
            user: user.to_owned(),
            password: password.to_owned(),
        })
    }

    /// Returns valid credentials of the relay that expired a minute ago.
    async fn expired(&self, context: &Context) -> anyhow::Result<Self> {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH)?;
        let user = (now.as_secs() - 60).to_string();
        let script = "printf %s \"$0\" | openssl dgst -sha1 -binary \
            -hmac \"$(cat /var/lib/chatmail-turn/secret)\" | base64";
        let password = context.run(RELAY, &["bash", "-c", script, &user]).await?;
        Ok(Self {
            host: self.host.clone(),
            user,
            password: password.trim().to_owned(),
        })
    }

    /// Runs the client against a peer, with these options for the transport.
    async fn call(&self, context: &Context, options: &[&str], peer: &str) -> anyhow::Result<Output> {
        self.calls(context, options, peer, "1").await
    }

    /// The same with several concurrent allocations.
    async fn calls(
        &self,
        context: &Context,
        options: &[&str],
        peer: &str,
        allocations: &str,
    ) -> anyhow::Result<Output> {
        let mut client = vec!["turnutils_uclient"];
        client.extend(options);
        client.extend([
            "-u",
            &self.user,
            "-w",
            &self.password,
            "-e",
            peer,
            "-r",
            PEER_PORT,
            "-n",
            MESSAGES,
            "-m",
            allocations,
            "-c",
            &self.host,
        ]);
        context.machines().exec(CLIENT, &client).await
    }

    async fn refused(
        &self,
        context: &Context,
        options: &[&str],
        peer: &str,
        why: &str,
    ) -> anyhow::Result<()> {
        let output = self.call(context, options, peer).await?;
        let text = text(&output);
        ensure!(!output.status.success(), "the client succeeded: {text}");
        ensure!(text.contains(why), "no `{why}`: {text}");
        Ok(())
    }
}

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// A client receives everything that it sends to a peer back from it.
async fn relay(context: &Context, options: &[&str]) -> anyhow::Result<()> {
    let access = Access::announced(context).await?;
    let peer = context.peer(PEER)?.port(0).ip().to_string();
    echoes(context, &access, options, &peer).await
}

async fn echoes(context: &Context, access: &Access, options: &[&str], peer: &str) -> anyhow::Result<()> {
    let unit = format!("--unit={PEER_UNIT}");
    let listen = ["-p", PEER_PORT, "-L", peer];
    let echo = [&["systemd-run", "--quiet", &unit, "turnutils_peer"][..], &listen].concat();
    context.run(PEER, &echo).await?;
    let output = access.call(context, options, peer).await;
    context.run(PEER, &["systemctl", "stop", PEER_UNIT]).await?;
    let output = output?;
    let text = text(&output);
    let all = format!("tot_send_msgs={MESSAGES}, tot_recv_msgs={MESSAGES}");
    ensure!(output.status.success() && text.contains(&all), "{text}");
    Ok(())
}

pub(super) async fn relays(context: &Context) -> anyhow::Result<()> {
    relay(context, OVER_UDP).await
}

pub(super) async fn relays_over_tcp(context: &Context) -> anyhow::Result<()> {
    relay(context, OVER_TCP).await
}

/// Clients cannot open TCP connections from the relay (RFC 6062).
pub(super) async fn connections(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(PEER)?.port(0).ip().to_string();
    Access::announced(context)
        .await?
        .refused(context, CONNECTIONS, &peer, "error 442")
        .await
}

pub(super) async fn credentials(context: &Context) -> anyhow::Result<()> {
    const WHY: &str = "Cannot complete Allocation";
    let access = Access::announced(context).await?;
    let peer = context.peer(PEER)?.port(0).ip().to_string();
    access
        .expired(context)
        .await?
        .refused(context, OVER_UDP, &peer, WHY)
        .await?;
    let wrong = Access {
        password: format!("x{}", access.password),
        ..access
    };
    wrong.refused(context, OVER_UDP, &peer, WHY).await
}

/// The TURN server relays to public peers without configuration, but not to the relay's own addresses, public or
/// private.
pub(super) async fn public_peers(context: &Context) -> anyhow::Result<()> {
    const PUBLIC: &str = "11.22.33.44";
    const OWN: &str = "11.22.33.55";
    let relay = context.peer(RELAY)?.port(0).ip().to_string();
    let way = context.peer(PEER)?.port(0).ip().to_string();
    let own = format!("{OWN}/32");
    let public = format!("{PUBLIC}/32");
    context
        .run(PEER, &["ip", "address", "add", &public, "dev", "lo"])
        .await?;
    context
        .run(RELAY, &["ip", "route", "add", &public, "via", &way])
        .await?;
    context
        .run(RELAY, &["ip", "address", "add", &own, "dev", "lo"])
        .await?;
    let played = async {
        // coturn reads the addresses of its host when it starts.
        context
            .run(RELAY, &["systemctl", "restart", "chatmail-turn"])
            .await?;
        until(Duration::from_secs(20), async || {
            let sockets = context.run(RELAY, &["ss", "-Hlun", "sport = :3478"]).await?;
            Ok((!sockets.is_empty()).then_some(()))
        })
        .await
        .context("TURN after its restart")?;
        let access = Access::announced(context).await?;
        echoes(context, &access, OVER_UDP, PUBLIC)
            .await
            .context("relaying to a public address")?;
        for peer in [OWN, &relay] {
            access
                .refused(context, OVER_UDP, peer, "403 (Forbidden IP)")
                .await
                .with_context(|| format!("relaying to {peer}"))?;
        }
        Ok(())
    }
    .await;
    context
        .run(RELAY, &["ip", "address", "delete", &own, "dev", "lo"])
        .await?;
    context.run(RELAY, &["ip", "route", "delete", &public]).await?;
    context
        .run(PEER, &["ip", "address", "delete", &public, "dev", "lo"])
        .await?;
    played
}

/// One account cannot exhaust the TURN server for others, however many credentials it requests.
pub(super) async fn quota(context: &Context) -> anyhow::Result<()> {
    const MANY: &str = "40";
    const WHY: &str = "486";
    let peer = context.peer(PEER)?.port(0).ip().to_string();
    let account = context.account(RELAY).await?;
    for time in ["first", "second"] {
        let access = Access::of(&account).await?;
        let output = access.calls(context, OVER_UDP, &peer, MANY).await?;
        let text = text(&output);
        ensure!(
            !output.status.success() && text.contains(WHY),
            "{MANY} allocations with the {time} credentials: {text}"
        );
    }
    relay(context, OVER_UDP).await.context("another account")
}

pub(super) async fn private_peers(context: &Context) -> anyhow::Result<()> {
    let access = Access::announced(context).await?;
    for peer in ["127.0.0.1", "10.0.0.1", "192.168.1.1", "169.254.169.254"] {
        access
            .refused(context, OVER_UDP, peer, "403 (Forbidden IP)")
            .await
            .with_context(|| format!("relaying to {peer}"))?;
    }
    Ok(())
}
