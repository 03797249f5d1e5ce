//! A relay without a domain name: account addresses are `user@[IP address]`.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Context;
use super::chat::messages;
use crate::client::deltachat::{Pair, User};
use crate::client::http;
use crate::client::message::{random_name, random_password};

const RELAY: &str = "d";

/// Signs up with a link, which must create an address on the relay.
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

/// A link as people type it.
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

/// Two users verify each other and exchange messages.
async fn talk(one: User, other: User) -> anyhow::Result<()> {
    messages(&Pair::verify(one, other).await?).await
}

pub(super) async fn sign_up(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let made = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
    ensure!(made.status == 200, "/new: {}", made.head);
    let made: Value = serde_json::from_slice(&made.body)?;
    let given = made.get("dclogin_url").and_then(Value::as_str);
    let given = given.context("/new returns no link")?;
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
