//! `chatmail migrate import` brings the ACME account over: a CAA record that names it stays valid.

use anyhow::{Context as _, ensure};
use mailtest::until;

use super::pebble;
use super::relay::{ORDER, RELAY, RELOAD, forget, served};
use crate::scenarios::Context;
use crate::scenarios::backup::install_anew;

/// What a reference relay has on its disk.
const OLD: &str = "/root/reference-with-acme";
/// Where the way back leads.
const BACK: &str = "/root/reference-with-acme-again";

/// Registers an account with the server, and stores it as acmetool does: a certificate of the relay names its account,
/// and there is a second account with the same server.
const REGISTER: &str = r#"
    rm -rf "$OLD" "$OLD.lego" "$BACK"
    lego --accept-tos --path "$OLD.lego" --email old@example.org --key-type rsa2048 --http \
      --http.webroot /var/lib/acme/acme-challenge --server https://198.18.25.2:14000/dir -d e.test run
    key=$(find "$OLD.lego/accounts" -name old@example.org.key)
    id=$(openssl pkey -in "$key" -pubout -outform DER | openssl dgst -sha256 -binary | base32 | tr -d = | tr A-Z a-z)
    acme=$OLD/var/lib/acme
    accounts=$acme/accounts/198.18.25.2%3a14000%2fdir
    mkdir -p -m 0700 "$accounts/$id" "$accounts/other" "$acme/certs/one" "$acme/live"
    cp "$key" "$accounts/$id/privkey"
    openssl ecparam -genkey -name prime256v1 -noout -out "$accounts/other/privkey"
    ln -s "../../accounts/198.18.25.2%3a14000%2fdir/$id" "$acme/certs/one/account"
    ln -s ../certs/one "$acme/live/e.test"
    mkdir -p "$OLD/home/vmail/mail/e.test/someone01@e.test"
    echo x >"$OLD/home/vmail/mail/e.test/someone01@e.test/password"
    cat "$OLD".lego/accounts/*/*/account.json
"#;

/// URL of the account that lego has recorded for the host.
const RECORDED: &str = "cat /var/lib/acme/.lego/accounts/*/198.18.25.2_14000/admin@example.org/account.json";
/// What the import must not touch: other accounts, and certificates.
const OTHERS: &str = "find /var/lib/acme/e.test /var/lib/acme/.lego/e.test /var/lib/acme/.lego/accounts/*/*/other@example.org \
    -type f -exec sha256sum {} + | sort";

async fn shell(context: &Context, script: &str) -> anyhow::Result<String> {
    let variables = [format!("OLD={OLD}"), format!("BACK={BACK}")];
    let mut argv = vec!["env"];
    argv.extend(variables.iter().map(String::as_str));
    argv.extend(["bash", "-euo", "pipefail", "-c", script]);
    context.run(RELAY, &argv).await
}

fn account_url(record: &str) -> anyhow::Result<String> {
    let record: serde_json::Value = serde_json::from_str(record).context(record.to_owned())?;
    let url = record.pointer("/registration/uri").and_then(|url| url.as_str());
    url.map(str::to_owned)
        .with_context(|| format!("no account in {record}"))
}

pub(crate) async fn imported(context: &Context) -> anyhow::Result<()> {
    pebble::stop(context).await?;
    forget(context).await?;
    install_anew(context, RELAY).await?;
    let trusting = context.peer(RELAY)?.with_tls(pebble::start(context).await?);
    // The host has an account and a certificate already, and another account of its own.
    let done = played(context, &trusting).await;
    shell(context, "rm -rf \"$OLD\" \"$OLD.lego\" \"$BACK\"").await?;
    pebble::stop(context).await?;
    forget(context).await?;
    install_anew(context, RELAY).await?;
    done
}

async fn played(context: &Context, trusting: &mailtest::client::Peer) -> anyhow::Result<()> {
    context.run(RELAY, &["systemctl", "start", ORDER]).await?;
    served(trusting).await?;
    shell(
        context,
        "cd /var/lib/acme/.lego/accounts/*/198.18.25.2_14000; cp -a admin@example.org other@example.org",
    )
    .await?;
    let own = account_url(&shell(context, RECORDED).await?)?;
    let registered = shell(context, REGISTER).await?;
    let brace = registered.find('{').context("lego prints no account")?;
    let url = account_url(registered.get(brace..).unwrap_or_default())?;
    ensure!(own != url, "both relays have the account {own}");
    let others = shell(context, OTHERS).await?;

    let import = ["chatmail", "migrate", "import", "--from", OLD];
    let dry = context
        .run(RELAY, &[&import[..], &["--dry-run"]].concat())
        .await?;
    ensure!(dry.contains("ACME account: that of the old relay"), "{dry}");
    ensure!(
        account_url(&shell(context, RECORDED).await?)? == own,
        "--dry-run has changed the account"
    );
    // Once while the old relay runs, and once more after it has stopped.
    context.run(RELAY, &import).await?;
    ensure!(
        shell(context, OTHERS).await? == others,
        "the import has changed other files"
    );
    context.run(RELAY, &[&import[..], &["--final"]].concat()).await?;
    let recorded = || async {
        let record = shell(context, RECORDED).await?;
        Ok(account_url(&record).ok())
    };
    let renewed = until(RELOAD, recorded)
        .await
        .context("lego does not find the imported account")?;
    ensure!(
        renewed == url,
        "renewals use the account {renewed} instead of {url}"
    );
    ensure!(
        shell(context, OTHERS).await? == others,
        "a certificate that is not due has changed"
    );
    let kept = shell(
        context,
        &RECORDED.replace("example.org/", "example.org.before-import/"),
    )
    .await?;
    ensure!(
        account_url(&kept)? == own,
        "the earlier account of the host is lost"
    );

    // The next certificate is ordered with it.
    let anew =
        format!("systemctl stop {ORDER}; rm -rf /var/lib/acme/.lego/e.test/*/*; systemctl start {ORDER}");
    shell(context, &anew).await?;
    served(trusting).await?;
    let ordered = account_url(&shell(context, RECORDED).await?)?;
    ensure!(
        ordered == url,
        "the certificate was ordered by {ordered} instead of {url}"
    );

    // The way back, to a relay that has no account.
    let export = ["chatmail", "migrate", "export", "--to", BACK];
    let dry = context
        .run(RELAY, &[&export[..], &["--dry-run"]].concat())
        .await?;
    ensure!(dry.contains("the ACME account"), "{dry}");
    context.run(RELAY, &export).await?;
    let compare = "cd \"$OLD\"; for key in $(readlink -f var/lib/acme/live/e.test/account)/privkey; do \
        cmp \"$key\" \"$BACK${key#\"$OLD\"}\"; done; \
        [ $(find \"$BACK/var/lib/acme\" -type f | wc -l) = 1 ]";
    shell(context, compare)
        .await
        .context("the account was not copied back")?;
    // A relay that has an account keeps it.
    context
        .run(RELAY, &["chatmail", "migrate", "export", "--to", OLD])
        .await?;
    let keys = shell(context, "find \"$OLD/var/lib/acme\" -name privkey | wc -l").await?;
    ensure!(keys.trim() == "2", "export has added an account to the old relay");
    Ok(())
}
