//! Provokes the log lines of daemons about errors: by default, most of them name the client or the account.

use std::time::Duration;

use anyhow::Context as _;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use mailtest::client::smtp::Smtp;
use mailtest::client::wire::Wire;
use mailtest::client::{Account, outside, pgp};
use mailtest::until;

use super::Context;
use crate::harness::mailboxes;

const WITHIN: Duration = Duration::from_secs(60);
/// Longer than the maximum line length of Postfix (`line_length_limit`).
const LONG: usize = 5000;

/// Sends these lines until the server closes the connection.
async fn say(smtp: &mut Smtp, lines: &[String]) {
    for line in lines {
        if smtp.command(line).await.is_err() {
            return;
        }
    }
}

/// Commands that clients and servers should not send. `address` is an account of the relay.
fn nonsense(address: &str) -> Vec<Vec<String>> {
    let with = |lines: &[&str]| {
        lines
            .iter()
            .map(|line| line.replace("ADDRESS", address))
            .collect()
    };
    vec![
        with(&[
            "MAIL FROM:<ADDRESS@>",
            "MAIL FROM:<ADDRESS",
            "MAIL FROM:ADDRESS ADDRESS",
            "MAIL ADDRESS",
        ]),
        with(&[
            "MAIL FROM:<ADDRESS>",
            "RCPT TO:<ADDRESS@>",
            "RCPT TO:<\"ADDRESS>",
            "RCPT ADDRESS",
        ]),
        with(&[
            "MAIL FROM:<ADDRESS> SIZE=99999999999",
            "MAIL FROM:<ADDRESS> BODY=ADDRESS",
        ]),
        with(&[
            "MAIL FROM:<ADDRESS> SMTPUTF8",
            "RCPT TO:<é-ADDRESS>",
            "RCPT TO:<ADDRESS>",
            "RSET",
        ]),
        with(&[
            "MAIL FROM:<ADDRESS> RET=HDRS ENVID=ADDRESS",
            "MAIL FROM:<ADDRESS>",
            "RCPT TO:<ADDRESS> NOTIFY=NEVER",
        ]),
        with(&[
            "ETRN ADDRESS",
            "ETRN example.org",
            "VRFY ADDRESS",
            "EXPN ADDRESS",
            "NOOP ADDRESS",
            "HELP ADDRESS",
        ]),
        with(&[
            "BDAT 1 ADDRESS",
            "TURN ADDRESS",
            "XCLIENT NAME=ADDRESS",
            "XFORWARD NAME=ADDRESS",
            "STARTTLS ADDRESS",
        ]),
        with(&[
            "HELO ADDRESS ADDRESS",
            "EHLO ADDRESS@",
            "DATA ADDRESS",
            "QUIT ADDRESS",
            "AUTH ADDRESS",
        ]),
        with(&["Subject: ADDRESS", "GET /ADDRESS HTTP/1.1"]),
        with(&["CONNECT ADDRESS"]),
        with(&["ADDRESS"; 30]),
        vec![format!("NOOP {}{address}", "x".repeat(LONG))],
        vec![format!(
            "AUTH PLAIN {}",
            STANDARD.encode(format!("\0{address}\0{}", "x".repeat(LONG)))
        )],
        vec![format!("AUTH PLAIN {}", STANDARD.encode(format!("{address}\0")))],
        vec![format!("AUTH PLAIN {address}")],
        vec![format!("AUTH LOGIN {}", STANDARD.encode(address))],
    ]
}

/// Sends one list of commands to every mail port, before and after TLS and a login.
async fn smtp_sessions(account: &Account, lines: &[String]) -> anyhow::Result<()> {
    let peer = &account.peer;
    let before_tls = |port| async move {
        let mut plain = Smtp::connect(peer.port(port)).await?;
        plain.ehlo("stranger.example").await?;
        say(&mut plain, lines).await;
        anyhow::Ok(())
    };
    let incoming = async {
        say(&mut peer.exchange("stranger.example").await?, lines).await;
        Ok(())
    };
    let before_login = async {
        say(&mut peer.submission().await?, lines).await;
        Ok(())
    };
    let submission = async {
        say(&mut account.smtp().await?, lines).await;
        Ok(())
    };
    tokio::try_join!(
        before_tls(25),
        before_tls(587),
        incoming,
        before_login,
        submission
    )?;
    Ok(())
}

async fn smtp(account: &Account) -> anyhow::Result<()> {
    let peer = &account.peer;
    for lines in nonsense(&account.address) {
        smtp_sessions(account, &lines).await?;
    }
    // Plain text instead of a TLS handshake, and a handshake that stalls.
    for port in [465, 993, 443, 8443] {
        let mut wire = Wire::connect(peer.port(port)).await?;
        wire.write(b"\x16\x03\x01\x00\x05nonsense\r\n\r\n").await?;
        let _ = wire.read_to_end(1 << 16).await;
    }
    for port in [25, 587] {
        let mut plain = Smtp::connect(peer.port(port)).await?;
        plain.ehlo("stranger.example").await?;
        plain.command("STARTTLS").await?.expect(220)?;
        let _ = plain.command("NOOP nonsense").await;
    }
    Ok(())
}

/// A mail loop, and a header that is too long.
async fn messages(account: &Account) -> anyhow::Result<()> {
    let mut looping = Vec::new();
    for hop in 0..120 {
        looping.extend(format!("Received: from {} by {hop}\r\n", account.address).bytes());
        looping.extend(format!("Delivered-To: {}\r\n", account.address).bytes());
    }
    let message = pgp::encrypted(&account.address, 2000).bytes();
    looping.extend(&message);
    let mut long = format!("X-Long: {}{}\r\n", account.address, "x".repeat(200_000)).into_bytes();
    long.extend(&message);
    for message in [looping, long] {
        // The reply does not matter, only the log lines.
        let _ = account
            .smtp()
            .await?
            .send(&account.address, &[&account.address], &message)
            .await?;
        let _ = outside::deliver(&account.peer, &account.address, &account.address, &message).await;
    }
    Ok(())
}

async fn imap(account: &Account) -> anyhow::Result<()> {
    let (address, password) = (&account.address, &account.password);
    let localpart = address.split('@').next().unwrap_or_default();
    let mut nobody = account.peer.imap().await?;
    for command in [
        format!("LOGIN {localpart} \"{password}\""),
        format!("LOGIN \"{localpart}*%\" x"),
        format!("LOGIN \"{address} \" x"),
        format!("AUTHENTICATE PLAIN {address}"),
        format!(
            "AUTHENTICATE PLAIN {}",
            STANDARD.encode(format!("{address}\0{localpart}\0{password}"))
        ),
        format!("AUTHENTICATE {localpart}"),
        format!("SELECT {localpart}"),
        localpart.to_owned(),
    ] {
        if nobody.command(&command).await.is_err() {
            nobody = account.peer.imap().await?;
        }
    }
    let mut user = account.imap().await?;
    for command in [
        format!("CREATE \"{localpart}\""),
        format!("SELECT \"{localpart}\""),
        format!("RENAME \"{localpart}\" \"{localpart}/{}\"", "x".repeat(300)),
        format!("DELETE \"{localpart}\""),
        format!("DELETE \"{localpart}\""),
        format!("SUBSCRIBE \"no {localpart}\""),
        format!("SETQUOTA \"\" (STORAGE {localpart})"),
        format!("SETMETADATA INBOX (/private/{localpart} \"x\")"),
        format!("GETACL {localpart}"),
        format!("STATUS \"no {localpart}\" (MESSAGES)"),
        format!("{localpart} {localpart}"),
    ] {
        if user.command(&command).await.is_err() {
            user = account.imap().await?;
        }
    }
    // The client disconnects without QUIT.
    drop(user);
    Ok(())
}

/// Mail for an account whose folder is not writable and whose indexes are corrupt.
async fn store(context: &Context, relay: &str, account: &Account) -> anyhow::Result<()> {
    let folder = mailboxes::of(account);
    let message = pgp::encrypted(&account.address, 2000);
    account.submit(&account.address, &message).await?.expect(250)?;
    context.queues_empty(&[relay], WITHIN).await?;
    let broken = "cd \"$0\" && for file in dovecot*; do echo nonsense >\"$file\"; done; chmod 0 cur new tmp";
    context.run(relay, &["sh", "-c", broken, &folder]).await?;
    let message = pgp::encrypted(&account.address, 2000);
    account.submit(&account.address, &message).await?.expect(250)?;
    let waits = || async {
        let queue = context.machines().queue(relay).await?;
        let mut recipients = queue.iter().flat_map(|message| &message.recipients);
        Ok(recipients
            .any(|one| one.address == account.address && one.delay_reason.is_some())
            .then_some(()))
    };
    until(WITHIN, waits)
        .await
        .context("mail for a folder that is not writable")?;
    if let Ok(mut imap) = account.imap().await {
        for command in ["SELECT INBOX", "FETCH 1 BODY[]", "CREATE x", "LIST \"\" *"] {
            if imap.command(command).await.is_err() {
                break;
            }
        }
    }
    context
        .run(
            relay,
            &["sh", "-c", "cd \"$0\" && chmod 700 cur new tmp", &folder],
        )
        .await?;
    context.run(relay, &["postqueue", "-f"]).await?;
    context.queues_empty(&[relay], WITHIN).await
}

/// Provokes all of these errors on one relay.
pub(super) async fn errors(context: &Context, relay: &str) -> anyhow::Result<()> {
    let account = context.account(relay).await?;
    smtp(&account).await?;
    messages(&account).await?;
    imap(&account).await?;
    store(context, relay, &account).await
}
