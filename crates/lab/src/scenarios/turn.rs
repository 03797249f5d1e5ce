//! Calls: a TURN client with the credentials of an account relays through the relay's coturn.

use std::process::Output;
use std::time::SystemTime;

use anyhow::{Context as _, bail, ensure};

use super::Context;

/// The relay whose TURN server is used.
const RELAY: &str = "a";
/// Where the client runs, and where what it sends arrives.
const CLIENT: &str = "b";
const PEER: &str = "c";

/// Port of the peer, which sends back what it gets.
const PEER_PORT: &str = "3480";
/// Unit that it runs as.
const PEER_UNIT: &str = "lab-turn-peer";
/// How the client reaches the server, and what it asks for.
const OVER_UDP: &[&str] = &[];
const OVER_TCP: &[&str] = &["-t"];
const CONNECTIONS: &[&str] = &["-T"];
/// Messages that the client sends.
const MESSAGES: &str = "5";

/// A TURN server and who may use it.
struct Access {
    host: String,
    user: String,
    password: String,
}

impl Access {
    async fn announced(context: &Context) -> anyhow::Result<Self> {
        let account = context.account(RELAY).await?;
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

    /// Credentials that the relay gave out once, and that ended a minute ago.
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

    /// Runs the client against a peer, with the options that say how it reaches the server.
    async fn call(&self, context: &Context, options: &[&str], peer: &str) -> anyhow::Result<Output> {
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
            "1",
            "-c",
            &self.host,
        ]);
        context.machines()?.exec(CLIENT, &client).await
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
        ensure!(!output.status.success(), "the client got through: {text}");
        ensure!(text.contains(why), "no `{why}`: {text}");
        Ok(())
    }
}

fn text(output: &Output) -> String {
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    text
}

/// A client gets back everything that it sends to a peer.
async fn relay(context: &Context, options: &[&str]) -> anyhow::Result<()> {
    let access = Access::announced(context).await?;
    let peer = context.peer(PEER)?.port(0).ip().to_string();
    let unit = format!("--unit={PEER_UNIT}");
    let echo = ["systemd-run", "--quiet", &unit, "turnutils_peer", "-p", PEER_PORT];
    context.run(PEER, &echo).await?;
    let output = access.call(context, options, &peer).await;
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

/// Connections in the name of the relay (RFC 6062) are not for clients.
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
