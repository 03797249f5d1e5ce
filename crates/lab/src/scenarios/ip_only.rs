//! A relay without a domain name: checks on the machine.

use std::fs;

use anyhow::ensure;
use mailtest::client::message::random_name;
use mailtest::client::{outside, pgp};

use super::Context;

const RELAY: &str = "d";

/// An address literal has no DKIM key, so only the host with that address may send from it, and only users may send
/// from the relay's own address to the relay.
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
    fs::write(context.machines().root(RELAY).join(file), message)?;
    let submitted = context
        .machines()
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

/// The relay has no DNS records, and `chatmail dns` reports this.
pub(super) async fn no_zone(context: &Context) -> anyhow::Result<()> {
    let asked = context.machines().exec(RELAY, &["chatmail", "dns"]).await?;
    let said = String::from_utf8_lossy(&asked.stderr).into_owned();
    ensure!(
        !asked.status.success() && said.contains("it needs no DNS records"),
        "chatmail dns: {said}"
    );
    Ok(())
}
