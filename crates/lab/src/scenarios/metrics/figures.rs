//! Metrics of Dovecot, of the relay's services, and of the report on the mailboxes.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::Message;
use mailtest::client::{Account, arrival, http, pgp};
use mailtest::until;

use super::samples::Samples;
use crate::scenarios::{Context, push};

/// The relay whose metrics are checked.
pub(super) const RELAY: &str = "a";
/// Time within which mail arrives and a metric changes.
const WITHIN: Duration = Duration::from_secs(30);
/// Metrics ports of doveauth, both filters, chatmail-metadata, newemail, lastlogin, and HTTPS delivery both ways.
const SERVICES: [u16; 9] = [3905, 3906, 3907, 3908, 3909, 3910, 3911, 3912, 3913];
/// Dovecot's port.
const DOVECOT: u16 = 3904;

/// Fetches the metrics from a port of the relay.
async fn read(context: &Context, port: u16) -> anyhow::Result<String> {
    let host = context.topology.relay(RELAY).context("no such relay")?.ipv4;
    let url = format!("http://{host}:{port}/metrics");
    context.run(RELAY, &["curl", "-sSf", &url]).await
}

/// Fetches the metrics of all services of the relay.
async fn services(context: &Context) -> anyhow::Result<Samples> {
    let mut text = String::new();
    for port in SERVICES {
        text.push_str(&read(context, port).await?);
    }
    Samples::parse(&text)
}

/// Dovecot exports every metric of the reference relay, except labelled ones whose event has not occurred yet.
pub(in crate::scenarios) async fn dovecot(context: &Context) -> anyhow::Result<()> {
    const HAPPENED: [&str; 12] = [
        "imap_command",
        "imap_command_duration",
        "imap_idle",
        "imap_idle_duration",
        "imap_idle_commands",
        "auth_request",
        "auth_request_duration",
        "auth_failed",
        "auth_passdb",
        "auth_master_login",
        "mail_delivery",
        "mail_delivery_duration",
    ];
    const TOLD: [&str; 11] = [
        "imap_command_slow",
        "imap_idle_failed",
        "imap_hibernated",
        "imap_hibernated_failed",
        "imap_unhibernated",
        "imap_unhibernated_reason",
        "imap_unhibernated_failed",
        "auth_master_login_failed",
        "mail_delivery_failed",
        "client_connected",
        "client_disconnected",
    ];
    let (sender, receiver) = (context.account(RELAY).await?, context.account(RELAY).await?);
    let wrong = Account {
        password: "another password".to_owned(),
        ..receiver.clone()
    };
    ensure!(wrong.imap().await.is_err(), "the relay accepts a wrong password");
    let (mut imap, _) = receiver.inbox().await?;
    let message = pgp::encrypted(&sender.address, 1000);
    sender.submit(&receiver.address, &message).await?.expect(250)?;
    arrival(&mut imap, message.id(), WITHIN).await?;
    imap.idle().await?.done().await?;

    let told = || async {
        let text = read(context, DOVECOT).await?;
        ensure!(text.ends_with("# EOF\n"), "this is not OpenMetrics:\n{text}");
        let samples = Samples::parse(&text)?;
        let count = |name: &&str| {
            let names = ["total", "count"].map(|kind| format!("dovecot_{name}_{kind}"));
            samples.sum(&names.each_ref().map(String::as_str), "")
        };
        let missing: Vec<_> = TOLD.iter().filter(|name| count(name).is_none()).collect();
        ensure!(missing.is_empty(), "Dovecot does not export {missing:?}:\n{text}");
        let none: Vec<_> = HAPPENED
            .iter()
            .filter(|name| count(name).unwrap_or_default() < 1.0)
            .collect();
        Ok(none.is_empty().then_some(()))
    };
    until(WITHIN, told).await.context("some events are not counted")
}

/// Each service counts the events that this scenario causes.
pub(in crate::scenarios) async fn own_services(context: &Context) -> anyhow::Result<()> {
    let before = services(context).await?;
    // One message to the account itself, and one from another relay that wakes two devices of a new account.
    push::message_wakes_devices(context).await?;
    let account = context.account(RELAY).await?;
    account.imap().await.context("a second login")?;
    let wrong = Account {
        password: "another password".to_owned(),
        ..account.clone()
    };
    ensure!(wrong.imap().await.is_err(), "the relay accepts a wrong password");
    let short = Account {
        password: "short".to_owned(),
        ..Account::random(&account.peer)
    };
    ensure!(short.imap().await.is_err(), "the relay accepts a short password");
    let (from, cleartext) = (&account.address, "Nobody shall read this.");
    let refused = account
        .smtp()
        .await?
        .send(
            from,
            &[from],
            &Message::cleartext(from, from, "hello", cleartext).bytes(),
        )
        .await?;
    ensure!(refused.code == 523, "the reply to cleartext is: {refused}");
    let peer = &account.peer;
    let new = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
    ensure!(new.status == 200, "the response to POST /new is: {}", new.head);

    let exactly = [
        ("chatmail_accounts_created_total", "", 2.0),
        ("chatmail_accounts_refused_total", "reason=\"address\"", 1.0),
        ("chatmail_accounts_refused_total", "reason=\"closed\"", 0.0),
        (
            "chatmail_filter_messages_total",
            "direction=\"outgoing\",verdict=\"accepted\"",
            1.0,
        ),
        (
            "chatmail_filter_messages_total",
            "direction=\"outgoing\",verdict=\"cleartext\"",
            1.0,
        ),
        (
            "chatmail_filter_messages_total",
            "direction=\"incoming\",verdict=\"accepted\"",
            1.0,
        ),
        ("chatmail_filter_duration_seconds_count", "", 3.0),
        ("chatmail_dkim_results_total", "result=\"valid\"", 1.0),
        ("chatmail_dkim_results_total", "result=\"invalid\"", 0.0),
        ("chatmail_device_tokens_total", "change=\"set\"", 2.0),
        ("chatmail_push_requests_total", "result=\"delivered\"", 2.0),
        ("chatmail_push_request_duration_seconds_count", "", 2.0),
        ("chatmail_new_addresses_total", "result=\"given\"", 1.0),
    ];
    let at_least = [
        ("chatmail_logins_total", "result=\"ok\"", 4.0),
        ("chatmail_logins_total", "result=\"mismatch\"", 2.0),
        ("chatmail_logins_remembered_total", "", 1.0),
        ("chatmail_password_hash_duration_seconds_count", "", 2.0),
        ("chatmail_last_logins_total", "result=\"ok\"", 1.0),
        ("chatmail_dkim_keys_total", "", 1.0),
    ];
    let now = services(context).await?;
    let mut wrong = Vec::new();
    let counted = |name, labels| {
        now.sum(&[name], labels).unwrap_or_default() - before.sum(&[name], labels).unwrap_or_default()
    };
    for (name, labels, wanted) in exactly {
        let count = counted(name, labels);
        if count != wanted {
            wrong.push(format!(
                "{name}{{{labels}}} increased by {count} instead of {wanted}"
            ));
        }
    }
    for (name, labels, wanted) in at_least {
        let count = counted(name, labels);
        if count < wanted {
            wrong.push(format!(
                "{name}{{{labels}}} increased by {count}, less than {wanted}"
            ));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    let queue = now.sum(&["chatmail_push_queue_length"], "");
    ensure!(queue == Some(0.0), "the push queue has {queue:?} entries");
    Ok(())
}

/// The hourly file for the node exporter, the daily report in the journal, and the report for programs.
pub(in crate::scenarios) async fn storage_report(context: &Context) -> anyhow::Result<()> {
    const FILE: &str = "/var/lib/node-exporter/fsreport.prom";
    let lab = context.machines();
    context.account(RELAY).await?;
    context.run(RELAY, &["rm", "-f", FILE]).await?;
    context
        .run(
            RELAY,
            &["systemctl", "start", "chatmail-fsreport-textfile.service"],
        )
        .await?;
    let text = context.run(RELAY, &["cat", FILE]).await?;
    let samples = Samples::parse(&text)?;
    for (name, label) in [
        ("chatmail_storage_bytes", "kind=\"total\""),
        ("chatmail_messages_bytes", "min_size=\"0\""),
        ("chatmail_messages_count", "min_size=\"102400\""),
        ("chatmail_accounts", "kind=\"all\""),
        ("chatmail_accounts_active", "days=\"1\""),
    ] {
        ensure!(
            samples.sum(&[name], label).is_some(),
            "no {name}{{{label}}} in:\n{text}"
        );
    }
    let active = samples.sum(&["chatmail_accounts_active"], "days=\"1\"");
    ensure!(
        active.is_some_and(|active| active >= 1.0),
        "{active:?} accounts are active"
    );
    let mode = context.run(RELAY, &["stat", "--format=%a", FILE]).await?;
    ensure!(
        mode.trim() == "644",
        "the node exporter cannot read a file of mode {mode}"
    );

    let start = lab.cursor(RELAY).await?;
    context
        .run(RELAY, &["systemctl", "start", "chatmail-fsreport.service"])
        .await?;
    for line in [
        "## Mailbox storage use analysis",
        "larger than ",
        "## Login stats",
        "last   1 days:",
    ] {
        lab.follow(RELAY, Some("chatmail-fsreport"), &start, line, WITHIN)
            .await?;
    }

    let json = context.run(RELAY, &["chatmail-fsreport", "--json"]).await?;
    let report: serde_json::Value = serde_json::from_str(&json).context("the report as JSON")?;
    let accounts = report
        .pointer("/accounts/all")
        .and_then(serde_json::Value::as_f64);
    ensure!(
        accounts.is_some() && accounts == samples.sum(&["chatmail_accounts"], "kind=\"all\""),
        "JSON has {accounts:?} accounts, the file for Prometheus: {text}"
    );
    Ok(())
}
