//! The status page of relay c.

use anyhow::{Context as _, ensure};
use mailtest::client::http;

use super::Context;

const RELAY: &str = "c";
/// A relay without the page.
const OTHER: &str = "a";
const UNIT: &str = "chatmail-status-page.service";

async fn page(context: &Context, relay: &str, path: &str) -> anyhow::Result<(u16, String)> {
    let peer = context.peer(relay)?;
    let answer = http::request(peer.port(443), &peer.tls, &peer.domain, "GET", path).await?;
    let text = String::from_utf8_lossy(&answer.body).into_owned();
    Ok((answer.status, format!("{}\n{text}", answer.head)))
}

/// The names of all accounts.
async fn accounts(context: &Context) -> anyhow::Result<usize> {
    let list = context
        .run(RELAY, &["chatmail", "account", "list", "--json"])
        .await?;
    let list: serde_json::Value = serde_json::from_str(&list)?;
    Ok(list.as_array().context("no list of accounts")?.len())
}

/// It says whether the relay delivers to itself, and leaves no account behind.
pub(super) async fn tells_the_state(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let before = accounts(context).await?;
    context
        .run(RELAY, &["sh", "-c", "rm -f /var/lib/chatmail-status-page/*"])
        .await?;
    let (status, text) = page(context, RELAY, "/status").await?;
    ensure!(
        status == 200 && text.contains("has not checked itself yet") && !text.contains("Accounts: "),
        "before the first run: {text}"
    );
    context.run(RELAY, &["systemctl", "start", UNIT]).await?;
    let (status, text) = page(context, RELAY, "/status").await?;
    ensure!(
        status == 200
            && text.to_ascii_lowercase().contains("content-type: text/html")
            && text.contains("Delivery works: ")
            && text.contains(&format!("Accounts: <bdi>{before}</bdi>"))
            && text.contains("Days of uptime: <bdi>")
            && !text.contains("does not work")
            && !text.contains("has not checked itself")
            && !text.contains("<!--#"),
        "{text}"
    );
    for (path, words) in [
        ("/de/status.html", "Die Zustellung funktioniert: "),
        ("/es/status.html", "La entrega funciona: "),
        ("/ru/status.html", "Доставка работает: "),
        ("/fa/status.html", "lang=\"fa\" dir=\"rtl\""),
    ] {
        let (status, text) = page(context, RELAY, path).await?;
        let accounts = format!("<bdi>{before}</bdi>");
        ensure!(
            status == 200 && text.contains(words) && text.contains(&accounts) && !text.contains("<!--#"),
            "{path}: {text}"
        );
    }
    let (status, _) = page(context, RELAY, "/status-values").await?;
    ensure!(status == 404, "the values are public: {status}");
    // The frame of the site names the operator's address.
    let body = text.split_once("<main>").map_or("", |(_, body)| body);
    let (body, _) = body.split_once("</main>").context("the page has no end")?;
    ensure!(!body.contains('@') && !body.contains(&account.address), "{body}");
    ensure!(
        accounts(context).await? == before,
        "the page leaves an account behind"
    );

    // Each of its sockets would start the filter again.
    let broken = [
        "filtermail-limit.socket",
        "filtermail-deliveries.socket",
        "filtermail-outgoing.socket",
        "filtermail-outgoing.service",
    ];
    context
        .run(RELAY, &[&["systemctl", "stop"][..], &broken].concat())
        .await?;
    let written = context.run(RELAY, &["systemctl", "start", UNIT]).await;
    context
        .run(RELAY, &[&["systemctl", "start"][..], &broken].concat())
        .await?;
    written?;
    let (_, text) = page(context, RELAY, "/status").await?;
    ensure!(
        text.contains("Delivery does not work at the moment") && !text.contains("Delivery works"),
        "a relay without its filter: {text}"
    );
    ensure!(
        accounts(context).await? == before,
        "a failure leaves an account behind"
    );

    let (status, _) = page(context, OTHER, "/status").await?;
    ensure!(status == 404, "a relay without the option: {status}");
    Ok(())
}
