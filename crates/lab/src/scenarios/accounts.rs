//! The first login creates an account.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use mailtest::client::imap::{Completed, Status};
use mailtest::client::message::random_name;
use mailtest::client::{Account, http};
use mailtest::scenarios::accounts::{REFUSED, refused};

use super::Context;
use super::addresses::address_in;
use crate::harness::mailboxes;

/// Time within which a log line appears.
const LOGGED: Duration = Duration::from_secs(10);
const RELAY: &str = "a";

async fn created(context: &Context, account: &Account) -> anyhow::Result<()> {
    let home = mailboxes::of(account);
    for file in ["password", "enforceE2EEincoming"] {
        context
            .run(RELAY, &["test", "-f", &format!("{home}/{file}")])
            .await?;
    }
    let stored = context
        .run(RELAY, &["head", "-c", "10", &format!("{home}/password")])
        .await?;
    ensure!(stored == "{ARGON2ID}", "the password is stored as {stored}…");
    Ok(())
}

pub(super) async fn sign_up_over_imap(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let account = Account::random(&context.peer(RELAY)?);
    let start = lab.cursor(RELAY).await?;
    let mut imap = account.peer.imap().await?;
    let before = imap.greeting_capabilities();
    let login = imap.login(&account.address, &account.password).await?.ok()?;
    let after = imap.capabilities(&login).await?;
    for wanted in ["XCHATMAIL", "XDELTAPUSH"] {
        ensure!(
            before.iter().any(|known| known == wanted),
            "{wanted} is not announced before login: {before:?}"
        );
    }
    for wanted in [
        "XCHATMAIL",
        "XDELTAPUSH",
        "IDLE",
        "METADATA",
        "QUOTA",
        "MOVE",
        "ID",
    ] {
        ensure!(
            after.iter().any(|known| known == wanted),
            "{wanted} is not announced after login: {after:?}"
        );
    }
    ensure!(imap.select_inbox().await? == 0, "a new account has mail");
    let want = format!("Created address: {}", account.address);
    lab.follow(RELAY, Some("doveauth"), &start, &want, LOGGED).await?;
    created(context, &account).await
}

pub(super) async fn sign_up_over_smtp(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let account = Account::random(&context.peer(RELAY)?);
    let start = lab.cursor(RELAY).await?;
    let mut smtp = account.peer.submission_starttls().await?;
    smtp.auth_plain(&account.address, &account.password)
        .await?
        .expect(235)?;
    let want = format!("Created address: {}", account.address);
    lab.follow(RELAY, Some("doveauth"), &start, &want, LOGGED).await?;
    created(context, &account).await?;
    account.imap().await.context("logging in over IMAP afterwards")?;
    Ok(())
}

pub(super) async fn second_login(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let start = lab.cursor(RELAY).await?;
    let account = context.account(RELAY).await?;
    account.imap().await.context("the second login over IMAP")?;
    account.smtp().await.context("the first login over SMTP")?;
    let lines = lab.journal(RELAY, Some("doveauth"), &start).await?;
    let times = lines
        .iter()
        .filter(|line| line.contains(&account.address))
        .count();
    ensure!(
        times == 1,
        "{times} log lines about an account that was created once: {lines:?}"
    );
    Ok(())
}

pub(super) async fn two_first_logins(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let account = Account::random(&context.peer(RELAY)?);
    let start = lab.cursor(RELAY).await?;
    // Both connections are open before either logs in, as when a client configures IMAP and SMTP at the same time.
    let (mut imap, mut smtp) = tokio::try_join!(account.peer.imap(), account.peer.submission())?;
    let (login, auth) = tokio::try_join!(
        imap.login(&account.address, &account.password),
        smtp.auth_plain(&account.address, &account.password)
    )?;
    login.ok().context("IMAP")?;
    auth.expect(235).context("SMTP")?;
    let want = format!("Created address: {}", account.address);
    let lines = lab.journal(RELAY, Some("doveauth"), &start).await?;
    let times = lines.iter().filter(|line| line.contains(&want)).count();
    ensure!(times == 1, "created {times} times: {lines:?}");
    created(context, &account).await
}

/// Checks that IMAP and SMTP reject a login, that it creates no files, and that the log contains the reason.
async fn not_created(context: &Context, address: &str, password: &str, log: &str) -> anyhow::Result<()> {
    let lab = context.machines();
    let peer = context.peer(RELAY)?;
    let start = lab.cursor(RELAY).await?;
    refused(&peer, address, password).await?;
    lab.follow(RELAY, Some("doveauth"), &start, log, LOGGED).await?;
    let home = mailboxes::of_address(&peer.mail_domain, address);
    let left = lab.exec(RELAY, &["test", "-e", &home]).await?;
    ensure!(!left.status.success(), "{home} exists");
    Ok(())
}

pub(super) async fn bad_localpart(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(RELAY)?.domain;
    let password = random_name(12);
    // Dovecot itself rejects most characters; it permits brackets, for addresses of relays without a domain.
    let bad = format!("{}[x]", random_name(6));
    let log = format!("localpart '{bad}' contains invalid characters");
    not_created(context, &format!("{bad}@{domain}"), &password, &log).await?;
    for length in [8, 10] {
        let bad = random_name(length);
        let log = format!("localpart {bad} has to be between 9 and 9 chars long");
        not_created(context, &format!("{bad}@{domain}"), &password, &log).await?;
    }
    Ok(())
}

/// Names from which Postfix and other servers accept no mail, and names that represent the relay.
pub(super) async fn reserved_names(context: &Context) -> anyhow::Result<()> {
    let domain = context.peer(RELAY)?.domain;
    let password = random_name(12);
    let (start, middle, end) = (random_name(8), random_name(4), random_name(3));
    for dotted in [format!("{start}."), format!("{middle}..{end}")] {
        let log = "localpart begins or ends with a dot, or has two in a row";
        not_created(context, &format!("{dotted}@{domain}"), &password, log).await?;
    }
    for role in ["webmaster", "ssl-admin", "sys.admin", "www--data"] {
        let log = format!("localpart '{role}' is reserved for the operator");
        not_created(context, &format!("{role}@{domain}"), &password, &log).await?;
    }
    // The operator can create them.
    let created = context
        .run(RELAY, &["chatmail", "account", "create", "postmaster"])
        .await?;
    let password = created
        .lines()
        .find_map(|line| line.strip_prefix("Password: "))
        .context("no password")?;
    let postmaster = Account {
        peer: context.peer(RELAY)?,
        address: format!("postmaster@{domain}"),
        password: password.to_owned(),
    };
    let logged_in = postmaster.imap().await.context("logging in as postmaster");
    context
        .run(RELAY, &["chatmail", "account", "delete", "--yes", "postmaster"])
        .await?;
    logged_in?;
    Ok(())
}

/// Logs in with these bytes as the password.
async fn login_with(account: &Account, password: &[u8]) -> anyhow::Result<Completed> {
    let plain = [b"\0", account.address.as_bytes(), b"\0", password].concat();
    let command = format!("AUTHENTICATE PLAIN {}", BASE64.encode(plain));
    account.peer.imap().await?.command(&command).await
}

/// Wrong passwords in forms that doveauth might reject as malformed requests get the usual response, and do not affect
/// other users.
pub(super) async fn odd_passwords(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let known = context.account(RELAY).await?;
    let unknown = Account::random(&known.peer);
    let start = lab.cursor(RELAY).await?;
    let odd: [&[u8]; 4] = [
        b"\xff\xfe\x80 is not UTF-8",
        &[b'\x01'; 3000],
        &[b'\xff'; 3000],
        &[b'x'; 3000],
    ];
    for password in odd {
        for account in [&known, &unknown] {
            let refused = login_with(account, password).await?;
            ensure!(
                refused.status == Status::No && refused.text == REFUSED,
                "the response to an unusual password is: {}",
                refused.text
            );
        }
        known.imap().await.context("a known user in between")?;
    }
    let lines = lab.journal(RELAY, Some("dovecot"), &start).await?;
    for bad in ["does not answer", "Error:", "Warning:"] {
        let found = lines.iter().find(|line| line.contains(bad));
        ensure!(found.is_none(), "the log contains: {found:?}");
    }
    let home = mailboxes::of(&unknown);
    let made = lab.exec(RELAY, &["test", "-e", &home]).await?;
    ensure!(!made.status.success(), "{home} exists");
    unknown.imap().await.context("a new user afterwards")?;
    Ok(())
}

/// Neither an unprivileged process nor another service with access to the mailboxes can send requests to doveauth.
/// Postfix can only ask about logins.
pub(super) async fn doveauth_socket(context: &Context) -> anyhow::Result<()> {
    const REQUESTS: &str = "/run/doveauth/doveauth.socket";
    const LOGINS: &str = "/run/doveauth/sasl.socket";
    // Exit status of curl for a socket that it cannot connect to.
    const CLOSED: Option<i32> = Some(7);
    let lab = context.machines();
    context.account(RELAY).await?;
    let ask = |socket| {
        [
            "curl",
            "-sS",
            "--max-time",
            "2",
            "--unix-socket",
            socket,
            "http://doveauth/users",
        ]
    };
    let root = context.run(RELAY, &ask(REQUESTS)).await?;
    ensure!(root.contains('@'), "the response to root is: {root}");
    for (user, group, open) in [
        ("nobody", "nogroup", None),
        ("vmail", "vmail", None),
        ("postfix", "postfix", Some(LOGINS)),
    ] {
        let setpriv = ["setpriv", "--reuid", user, "--regid", group, "--init-groups"];
        for socket in [REQUESTS, LOGINS] {
            let output = lab.exec(RELAY, &[&setpriv[..], &ask(socket)].concat()).await?;
            ensure!(
                (output.status.code() == CLOSED) == (open != Some(socket)) && output.stdout.is_empty(),
                "{user} at {socket}: {}, {}",
                output.status,
                String::from_utf8_lossy(&output.stderr)
            );
        }
    }
    // Dovecot's auth workers can send requests.
    let users = context.run(RELAY, &["doveadm", "user", "*"]).await?;
    ensure!(users.contains('@'), "doveadm lists: {users}");
    Ok(())
}

/// The disk is full at each step of account creation: no file remains, and no client gets the response for a wrong
/// password. Here, inodes run out rather than bytes, because the relay checks the free bytes before it creates an
/// account.
pub(super) async fn full_disk(context: &Context) -> anyhow::Result<()> {
    let lab = context.machines();
    let peer = context.peer(RELAY)?;
    let store = mailboxes::of_domain(&peer.mail_domain);
    let start = lab.cursor(RELAY).await?;
    let script = format!(
        "mount -t tmpfs -o size=3g,nr_inodes=2,mode=0700,uid=vmail,gid=vmail tmpfs {store}; systemctl restart doveauth"
    );
    context.run(RELAY, &["sh", "-ec", &script]).await?;
    let played = async {
        let mut failed = 0;
        for files in 1..=12 {
            let option = format!("remount,nr_inodes={}", files + 1);
            context.run(RELAY, &["mount", "-o", &option, &store]).await?;
            let account = Account::random(&peer);
            let login = peer
                .imap()
                .await?
                .login(&account.address, &account.password)
                .await?;
            if login.status == Status::Ok {
                break;
            }
            ensure!(
                login.text != REFUSED,
                "with room for {files} files, a new user gets the response for a wrong password"
            );
            failed += 1;
            let left = context.run(RELAY, &["find", &store, "-mindepth", "1"]).await?;
            if left.lines().any(|line| line.ends_with("/password")) {
                // The relay created the account, and there is no room for Dovecot's own files.
                break;
            }
            ensure!(left.is_empty(), "room for {files} files leaves:\n{left}");
        }
        ensure!(failed >= 2, "only {failed} creations failed");
        context
            .run(RELAY, &["mount", "-o", "remount,nr_inodes=1000", &store])
            .await?;
        context
            .account(RELAY)
            .await
            .context("a new user once there is room")?;
        anyhow::Ok(())
    };
    let played = played.await;
    let lines = lab.journal(RELAY, None, &start).await?;
    let script = format!("umount -l {store}; systemctl restart doveauth dovecot postfix");
    context.run(RELAY, &["sh", "-ec", &script]).await?;
    played?;
    // The log must not name users who could not sign up.
    let named = lines.iter().find(|line| {
        !line.contains("Created address: ") && address_in(&line.to_ascii_lowercase(), &peer.domain).is_some()
    });
    ensure!(named.is_none(), "the log contains: {named:?}");
    // The next expiry removes what a crash at the same steps leaves behind.
    let left = Account::random(&peer);
    let home = format!("{store}/{}", left.address);
    let script = "install -d -o vmail -g vmail -m 0700 \"$0\"; \
        install -o vmail -g vmail /dev/null \"$0/enforceE2EEincoming\"; \
        install -o vmail -g vmail /dev/null \"$0/.password-Ab12Cd\"; systemctl start chatmail-expire.service";
    context.run(RELAY, &["bash", "-ec", script, &home]).await?;
    let there = lab.exec(RELAY, &["test", "-e", &home]).await?.status.success();
    ensure!(!there, "{home} is still there");
    left.imap().await.context("the same name afterwards")?;
    Ok(())
}

pub(super) async fn short_password(context: &Context) -> anyhow::Result<()> {
    let account = Account::random(&context.peer(RELAY)?);
    let log = "Password needs to be at least 9 characters long";
    not_created(context, &account.address, "eight888", log).await
}

pub(super) async fn foreign_domain(context: &Context) -> anyhow::Result<()> {
    let other = context.peer("b")?.domain;
    let address = format!("{}@{other}", random_name(9));
    not_created(
        context,
        &address,
        &random_name(12),
        "address belongs to another domain",
    )
    .await
}

pub(super) async fn nocreate_file(context: &Context) -> anyhow::Result<()> {
    let known = context.account(RELAY).await?;
    for file in ["/var/lib/chatmail/nocreate", "/etc/chatmail-nocreate"] {
        let account = Account::random(&known.peer);
        context.run(RELAY, &["touch", file]).await?;
        let closed = async {
            let log = format!("blocked account creation because '{file}' exists.");
            not_created(context, &account.address, &account.password, &log).await?;
            let peer = &known.peer;
            let new = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
            ensure!(
                new.status == 403 && new.body.starts_with(br#"{"reason":"This relay does not"#),
                "POST /new on a closed relay: {}",
                new.head
            );
            known
                .imap()
                .await
                .context("a known user while the relay is closed")
        };
        let closed = closed.await;
        let status = context.run(RELAY, &["sh", "-c", "chatmail status || true"]).await;
        context.run(RELAY, &["rm", "-f", file]).await?;
        closed?;
        ensure!(
            status?.contains(file),
            "the status does not report why the relay creates no accounts"
        );
        account.imap().await.context("a new user once the file is gone")?;
    }
    Ok(())
}
