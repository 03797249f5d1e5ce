//! Permitted destinations: only public addresses, and no users of the operating system; and mail of the host itself.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::Message;
use mailtest::client::{Account, arrival_of, outside, pgp};

use super::Context;

const WITHIN: Duration = Duration::from_secs(60);

/// Destinations to which a relay must not connect, in every form that a resolver or the C library accepts. The lab
/// allows `198.18.25.0/24`.
const PRIVATE: [&str; 26] = [
    "[10.0.0.1]",
    "[100.64.0.1]",
    "[127.0.0.1]",
    "[127.0.0.2]",
    "[169.254.169.254]",
    "[172.31.255.1]",
    "[192.168.1.1]",
    "[198.18.26.1]",
    "[0.0.0.0]",
    "[224.0.0.1]",
    "[255.255.255.255]",
    "[10.1]",
    "[0xa.1]",
    "[2130706433]",
    "[010.0.0.1]",
    "[localhost]",
    "[c.test]",
    "[IPv6:::1]",
    "[IPv6:::ffff:10.0.0.1]",
    "[IPv6:fe80::1]",
    "[IPv6:fd00::1]",
    "[IPv6:2002:a00:1::1]",
    "[IPv6:64:ff9b::a00:1]",
    "10.0.0.1",
    "0xa.1",
    "167772161",
];

/// Domains whose zones point to such destinations.
const ZONES: [(&str, &str); 8] = [
    ("loopback.test", "A 127.0.0.2"),
    ("private.test", "A 10.0.0.1"),
    ("unspecified.test", "A 0.0.0.0"),
    ("link-local.test", "A 169.254.169.254"),
    ("six.test", "AAAA ::1"),
    ("mapped.test", "AAAA ::ffff:10.0.0.1"),
    ("numeric-mx.test", "MX 10 127.0.0.2."),
    ("hexadecimal-mx.test", "MX 10 0x7f.2."),
];

pub(super) async fn private_addresses(context: &Context) -> anyhow::Result<()> {
    let sender = context.account("a").await?;
    let mut smtp = sender.smtp().await?;
    smtp.command(&format!("MAIL FROM:<{}>", sender.address))
        .await?
        .expect(250)?;
    for domain in PRIVATE {
        let reply = smtp.command(&format!("RCPT TO:<somebody@{domain}>")).await?;
        ensure!(
            (500..600).contains(&reply.code),
            "mail to somebody@{domain}: {reply}"
        );
        // Postfix closes a session after too many errors.
        smtp = sender.smtp().await?;
        smtp.command(&format!("MAIL FROM:<{}>", sender.address))
            .await?
            .expect(250)?;
    }
    let (mut imap, _) = sender.inbox().await?;
    for (domain, record) in ZONES {
        // Without an SOA record, the resolver treats a missing MX record as a failure.
        let zone = format!(
            "{domain}. 60 IN SOA {domain}. x.{domain}. 1 60 60 60 0\n{domain}. 60 IN NS {domain}.\n\
             {domain}. 0 IN {record}\n"
        );
        context.machines().publish(domain, &zone).await?;
        let address = format!("somebody@{domain}");
        let message = pgp::encrypted(&sender.address, 2000);
        sender.submit(&address, &message).await?.expect(250)?;
        let criteria = format!("FROM MAILER-DAEMON BODY {address}");
        let report = arrival_of(&mut imap, &criteria, WITHIN)
            .await
            .with_context(|| format!("mail to {domain} does not bounce"))?;
        // Bounces fold the reason.
        let report = String::from_utf8_lossy(&report);
        let report = report.split_whitespace().collect::<Vec<_>>().join(" ");
        ensure!(
            report.contains("DNS reply filter drops all results") || report.contains("Status: 5.4.4"),
            "mail to {domain} bounced for another reason: {report}"
        );
    }
    Ok(())
}

/// Checks that no file exists to which Postfix's local(8) would deliver.
async fn no_local_mail(context: &Context, relay: &str) -> anyhow::Result<()> {
    let script = "find /var/mail/ /var/spool/mail/ -type f 2>/dev/null || true";
    let found = context.run(relay, &["sh", "-c", script]).await?;
    ensure!(found.is_empty(), "relay {relay} has mail for Unix users: {found}");
    Ok(())
}

pub(super) async fn unix_users(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer("a")?;
    let own = context.topology.relay("a").context("no relay a")?.ipv4;
    for domain in [
        "[127.0.0.1]".to_owned(),
        format!("[{own}]"),
        "localhost".to_owned(),
        format!("localhost.{}", peer.domain),
        peer.mail_domain.clone(),
    ] {
        let mut answers = Vec::new();
        for user in ["root", "nobody", "vmail", "no-such-user"] {
            let mut smtp = peer.exchange(outside::DOMAIN).await?;
            smtp.command(&format!("MAIL FROM:<someone@{}>", outside::DOMAIN))
                .await?
                .expect(250)?;
            let reply = smtp.command(&format!("RCPT TO:<{user}@{domain}>")).await?;
            answers.push(reply.to_string().replace(user, "user"));
        }
        answers.dedup();
        ensure!(
            answers.len() == 1,
            "the replies reveal users of the system: {answers:?}"
        );
        let answer = answers.concat();
        let is_ours = domain == peer.mail_domain;
        ensure!(
            answer.starts_with(if is_ours { "250 " } else { "5" }),
            "mail to user@{domain}: {answer}"
        );
    }
    for relay in ["a", "d"] {
        no_local_mail(context, relay).await?;
    }
    Ok(())
}

/// Returns the account in `services.postfix.rootAlias` of relay b; the first login of this scenario sets its password.
fn operator(context: &Context) -> anyhow::Result<Account> {
    let peer = context.peer("b")?;
    Ok(Account {
        address: format!("operator1@{}", peer.mail_domain),
        password: "the operator's password".to_owned(),
        peer,
    })
}

pub(super) async fn mail_of_the_host(context: &Context) -> anyhow::Result<()> {
    let operator = operator(context)?;
    let (mut imap, _) = operator.inbox().await?;
    for recipient in ["root", "root@localhost", "postmaster"] {
        let message = Message::cleartext("cron@localhost", recipient, "A disk is full", "It is.");
        let subject = message.id().trim_matches(['<', '>']).to_owned();
        let script = format!(
            "printf 'Subject: {subject}\\nTLS-Required: No\\n\\nIt is full.\\n' | sendmail {recipient}"
        );
        context.run("b", &["sh", "-c", &script]).await?;
        arrival_of(&mut imap, &format!("SUBJECT {subject}"), WITHIN)
            .await
            .with_context(|| format!("mail of the host to {recipient}"))?;
    }
    no_local_mail(context, "b").await
}
