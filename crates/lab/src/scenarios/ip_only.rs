//! A relay without a name: accounts are `user@[address]`.

use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::chat::messages;
use super::{Context, Pair};
use crate::client::deltachat::User;
use crate::client::message::{random_name, random_password};
use crate::client::{http, outside, pgp};

const RELAY: &str = "d";

/// Signs up with a link, which has to lead to an address on the relay.
async fn user(context: &Context, name: &str, link: &str) -> anyhow::Result<User> {
    let domain = context.peer(RELAY)?.mail_domain;
    let user = context.program().await?.user_of_code(name, link).await?;
    ensure!(
        user.address.ends_with(&format!("@{domain}")),
        "the address is {}",
        user.address
    );
    Ok(user)
}

/// A link as people write it by hand.
fn link(context: &Context) -> anyhow::Result<String> {
    let peer = context.peer(RELAY)?;
    let ip = &peer.domain;
    Ok(format!(
        "dclogin:{}@{}/?p={}&v=1&ih={ip}&sh={ip}&ip=993&sp=465&ic=3&ss=default",
        random_name(9),
        peer.mail_domain,
        random_password()
    ))
}

/// They verify each other and exchange messages.
async fn talk(one: User, other: User) -> anyhow::Result<()> {
    let (one_chat, other_chat) = one.secure_join(&other).await?;
    messages(&Pair {
        one,
        other,
        one_chat,
        other_chat,
    })
    .await
}

pub(super) async fn sign_up(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let made = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
    ensure!(made.status == 200, "/new: {}", made.head);
    let made: Value = serde_json::from_slice(&made.body)?;
    let given = made.get("dclogin_url").and_then(Value::as_str);
    let given = given.context("/new gives no link")?;
    let one = user(context, "alice", given).await?;
    let other = user(context, "bob", &link(context)?).await?;
    talk(one, other).await
}

pub(super) async fn messages_across(context: &Context) -> anyhow::Result<()> {
    let one = user(context, "alice", &link(context)?).await?;
    let other = context.peer("a")?.domain;
    let other = context.program().await?.user("bob", &other).await?;
    talk(one, other).await
}

/// Nothing signs for an address, so only the host that has it may send from there, and to its own relay nobody but its
/// users.
pub(super) async fn forged(context: &Context) -> anyhow::Result<()> {
    let receiver = context.account("a").await?;
    let peer = context.peer(RELAY)?;
    let from = format!("{}@{}", random_name(9), peer.mail_domain);
    let message = pgp::encrypted(&from, 2000).bytes();
    let reply = outside::deliver(&receiver.peer, &from, &receiver.address, &message).await?;
    reply.expect_line(&format!(
        "500 Invalid FROM domain literal: {} does not match origin IP {}",
        peer.domain, context.topology.host
    ))?;

    let (sender, receiver) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let message = pgp::encrypted(&sender.address, 2000).bytes();
    let file = "var/lib/lab-forged.eml";
    fs::write(context.machines()?.root(RELAY).join(file), message)?;
    let submitted = context
        .machines()?
        .exec(
            RELAY,
            &[
                "runuser",
                "--user=nobody",
                "--",
                "curl",
                "--silent",
                "--verbose",
                "--ssl-reqd",
                "--insecure",
                "--max-time",
                "30",
                "--mail-from",
                &sender.address,
                "--mail-rcpt",
                &receiver.address,
                "--upload-file",
                &format!("/{file}"),
                &format!("smtp://{}", peer.domain),
            ],
        )
        .await?;
    let said = String::from_utf8_lossy(&submitted.stderr).into_owned();
    let refused = format!("500 Invalid FROM domain literal: {} is this relay", peer.domain);
    ensure!(
        !submitted.status.success() && said.contains(&refused),
        "a process on the host of the relay sends as {}: {said}",
        sender.address
    );
    Ok(())
}

/// There is nothing to publish, and the command says so.
pub(super) async fn no_zone(context: &Context) -> anyhow::Result<()> {
    let asked = context.machines()?.exec(RELAY, &["chatmail", "dns"]).await?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(
        !asked.status.success() && said.contains("it needs no DNS records"),
        "chatmail dns: {said}"
    );
    Ok(())
}
