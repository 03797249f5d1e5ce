//! Backup and the move from a reference relay, with the commands of the operator guide, on relay c.

pub(super) mod import;
mod interrupted;
pub(super) mod restic;

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::imap::Status;
use mailtest::client::message::random_name;
use mailtest::client::{Account, arrival, pgp};

use super::{Context, guide, hurried};
use crate::harness::mailboxes;

const RELAY: &str = "c";
const OTHER: &str = "a";
const DELIVERED: Duration = Duration::from_secs(60);
const KEY: &str = "/var/lib/chatmail-dkim/opendkim.private";
/// State that a new host lacks, or that differs on it.
const STATE: [&str; 2] = [KEY, "/var/lib/chatmail-turn/secret"];
/// Folder in place of the old host's `/`.
const OLD: &str = "/root/reference";

/// Sends a message from one account to another; it must arrive, with a signature that the other relay accepts.
async fn delivered(context: &Context, from: &Account, to: &Account) -> anyhow::Result<String> {
    let message = pgp::encrypted(&from.address, 4_000);
    from.smtp()
        .await?
        .send(&from.address, &[&to.address], &message.bytes())
        .await?
        .expect(250)?;
    let (mut imap, _) = to.inbox().await?;
    hurried(
        context,
        &[RELAY, OTHER],
        arrival(&mut imap, message.id(), DELIVERED),
    )
    .await?;
    Ok(message.id().to_owned())
}

async fn checksums(context: &Context) -> anyhow::Result<Vec<String>> {
    let mut sums = Vec::new();
    for file in STATE {
        sums.push(context.run(RELAY, &["sha256sum", file]).await?);
    }
    Ok(sums)
}

/// Runs a command on relay c that must fail; its error must contain `expected`.
async fn fails(context: &Context, argv: &[&str], expected: &str) -> anyhow::Result<()> {
    let output = context.machines().exec(RELAY, argv).await?;
    let error = String::from_utf8_lossy(&output.stderr);
    ensure!(
        !output.status.success() && error.contains(expected),
        "`{}` must fail with {expected:?}, but: {} {error}{}",
        argv.join(" "),
        output.status,
        String::from_utf8_lossy(&output.stdout)
    );
    Ok(())
}

/// Runs a command on relay c at a terminal, where it has to say these things one after the other; without a terminal it
/// says only the last.
async fn watched(context: &Context, argv: &[&str], expected: &[&str]) -> anyhow::Result<()> {
    let at_terminal = [
        "script",
        "--quiet",
        "--return",
        "--command",
        &argv.join(" "),
        "/dev/null",
    ];
    let said = context.run(RELAY, &at_terminal).await?;
    let mut rest = said.as_str();
    for part in expected {
        let (_, later) = rest
            .split_once(part)
            .with_context(|| format!("`{}` does not say {part:?}: {said}", argv.join(" ")))?;
        rest = later;
    }
    Ok(())
}

/// Runs a command on relay c without a terminal, as timers do: it must say this and nothing of its progress.
async fn unwatched(context: &Context, argv: &[&str], expected: &str) -> anyhow::Result<()> {
    let output = context.machines().exec(RELAY, argv).await?;
    let (said, error) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    ensure!(
        output.status.success() && said.contains(expected) && !error.contains('…'),
        "`{}`: {} {error}{said}",
        argv.join(" "),
        output.status
    );
    Ok(())
}

/// What a restore has to bring back: keys and secrets, and times, owners and modes.
#[derive(Debug, PartialEq, Eq)]
struct Facts {
    checksums: Vec<String>,
    password: String,
}

impl Facts {
    async fn of(context: &Context, user: &Account) -> anyhow::Result<Self> {
        let password = format!("{}/password", mailboxes::of(user));
        let stat = ["stat", "--format=%Y %U %G %a", &password];
        Ok(Self {
            checksums: checksums(context).await?,
            password: context.run(RELAY, &stat).await?,
        })
    }

    /// Gives the password file of the user an old date first.
    async fn of_old(context: &Context, user: &Account) -> anyhow::Result<Self> {
        let password = format!("{}/password", mailboxes::of(user));
        context
            .run(RELAY, &["touch", "--date=2026-01-02 00:00:00 UTC", &password])
            .await?;
        Self::of(context, user).await
    }
}

async fn refused(account: &Account, password: &str) -> anyhow::Result<()> {
    let answer = account
        .peer
        .imap()
        .await?
        .login(&account.address, password)
        .await?;
    ensure!(answer.status == Status::No, "the relay accepts a wrong password");
    Ok(())
}

/// Resets a relay to its state right after installation: no mailboxes, and new keys and secrets.
pub(super) async fn install_anew(context: &Context, relay: &str) -> anyhow::Result<()> {
    let script = "\
        systemctl stop postfix dovecot doveauth.socket doveauth lastlogin.socket lastlogin \
          chatmail-metadata.socket chatmail-metadata opendkim chatmail-turn chatmail-dkim-key chatmail-turn-secret\n\
        rm -rf /home/vmail /var/lib/chatmail-dkim /var/lib/chatmail-turn /var/lib/chatmail-metadata\n\
        systemd-tmpfiles --create /etc/tmpfiles.d/nixos.conf\n\
        systemctl start multi-user.target sockets.target";
    context.run(relay, &["bash", "-euc", script]).await.map(drop)
}

/// A backup made while the relay runs restores its state on a freshly installed host.
pub(super) async fn restore(context: &Context) -> anyhow::Result<()> {
    let (user, other) = (context.account(RELAY).await?, context.account(OTHER).await?);
    let id = delivered(context, &other, &user).await?;
    let before = Facts::of_old(context, &user).await?;

    for block in guide::blocks("Backup")? {
        guide::run(context, RELAY, &block, "/").await?;
    }
    install_anew(context, RELAY).await?;
    let between = checksums(context).await?;
    ensure!(
        between.iter().zip(&before.checksums).all(|(new, old)| new != old),
        "the reset host still has the old keys"
    );
    for block in guide::blocks("Restore")? {
        guide::run(context, RELAY, &block, "/").await?;
    }

    let after = Facts::of(context, &user).await?;
    ensure!(after == before, "restored: {after:?}, saved: {before:?}");
    refused(&user, "another-password").await?;
    let (mut imap, _) = user.inbox().await.context("the old password")?;
    arrival(&mut imap, &id, DELIVERED).await.context("the old mail")?;
    delivered(context, &user, &other)
        .await
        .context("mail signed with the old key")?;
    delivered(context, &other, &user).await.context("new mail")?;
    context.run(RELAY, &["rm", "/root/relay.tar"]).await.map(drop)
}

/// Creates a mailbox of a reference relay: password hashes of the old scheme, indexes that this Dovecot cannot read,
/// compressed and plain messages, and tokens in a list.
const MAILBOX: &str = r#"
umask 077
home=$OLD/home/vmail/mail/$DOMAIN/$ADDRESS
mkdir -p "$home"/{cur,new,tmp} "$OLD"/etc/dkimkeys
printf '{SHA512-CRYPT}%s' "$(openssl passwd -6 "$PASSWORD")" >"$home/password"
touch --date='2026-01-02 00:00:00 UTC' "$home/password"
touch "$home/enforceE2EEincoming"
printf '{"devicetoken": ["openpgp:old-token"]}' >"$home/metadata.json"
message() { printf 'From: <x@example.org>\r\nMessage-ID: <%s>\r\nSubject: [...]\r\n\r\n%s\r\n' "$1" "$1"; }
plain=$(message plain-$MARK | wc -c) packed=$(message packed-$MARK | wc -c)
message plain-$MARK >"$home/new/1760000000.M1P1.old,S=$plain,W=$plain"
message packed-$MARK | gzip >"$home/cur/1760000001.M2P2.old,S=$packed,W=$packed:2,S"
printf '524288000S\n%d 2\n' $((plain + packed)) >"$home/maildirsize"
printf '3 V1760000000 N3 G0123456789abcdef0123456789abcdef\n1 :1760000000.M1P1.old,S=%d,W=%d\n' "$plain" "$plain" \
  >"$home/dovecot-uidlist"
for index in dovecot.index dovecot.index.cache dovecot.index.log; do head -c 500 /dev/urandom >"$home/$index"; done
openssl genrsa -out "$OLD/etc/dkimkeys/opendkim.private" 2048
chown -R vmail:vmail "$OLD/home/vmail"
"#;

/// The state of a reference relay replaces that of a new relay.
pub(super) async fn move_in(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let (user, other) = (Account::random(&peer), context.account(OTHER).await?);
    let mark = format!("{}@{}", random_name(9), peer.domain);
    let variables = [
        format!("OLD={OLD}"),
        format!("DOMAIN={}", peer.domain),
        format!("ADDRESS={}", user.address),
        format!("PASSWORD={}", user.password),
        format!("MARK={mark}"),
    ];
    let mut make = vec!["env"];
    make.extend(variables.iter().map(String::as_str));
    make.extend(["bash", "-euc", MAILBOX]);
    context.run(RELAY, &make).await?;

    let [pack, unpack] = &guide::blocks("Moving from the reference relay")?[..] else {
        anyhow::bail!("the guide must have one block that packs and one that unpacks");
    };
    guide::run(context, RELAY, pack, OLD).await?;
    guide::run(context, RELAY, unpack, "/").await?;
    let zone = context.run(RELAY, &["chatmail", "dns", "--zone"]).await?;
    context.machines().publish(&peer.domain, &zone).await?;
    // For other relays, the DKIM key changes; they would cache the old one for the TTL of its record.
    for unit in ["unbound.service", "filtermail-incoming.service"] {
        context.run(OTHER, &["systemctl", "restart", unit]).await?;
    }

    let old_key = format!("{OLD}/etc/dkimkeys/opendkim.private");
    context.run(RELAY, &["cmp", &old_key, KEY]).await?;
    let stat = context.run(RELAY, &["stat", "--format=%U %a", KEY]).await?;
    ensure!(stat.trim() == "opendkim 600", "the key is {stat}");
    let password = format!("{}/password", mailboxes::of(&user));
    let days = context.run(RELAY, &["stat", "--format=%Y", &password]).await?;
    ensure!(days.trim() == "1767312000", "the last login is {days}");

    refused(&user, "another-password").await?;
    let (mut imap, _) = user.inbox().await.context("the old password")?;
    for name in ["plain", "packed"] {
        let bytes = arrival(&mut imap, &format!("<{name}-{mark}>"), DELIVERED).await?;
        let text = String::from_utf8_lossy(&bytes).into_owned();
        ensure!(
            text.ends_with(&format!("\r\n\r\n{name}-{mark}\r\n")),
            "{name} is {text:?}"
        );
    }
    let hash = context.run(RELAY, &["head", "-c", "10", &password]).await?;
    ensure!(hash == "{ARGON2ID}", "the password is stored as {hash}…");
    user.imap().await.context("the old password once more")?;
    imap.command("SETMETADATA \"INBOX\" (/private/devicetoken \"openpgp:new-token\")")
        .await?
        .ok()?;
    let tokens = context
        .run(
            RELAY,
            &["cat", &format!("{}/metadata.json", mailboxes::of(&user))],
        )
        .await?;
    ensure!(
        ["\"openpgp:old-token\":", "\"openpgp:new-token\":"]
            .iter()
            .all(|token| tokens.contains(token)),
        "the tokens are {tokens}"
    );
    delivered(context, &user, &other)
        .await
        .context("mail signed with the moved key")?;
    delivered(context, &other, &user).await.context("new mail")?;
    context
        .run(RELAY, &["rm", "-r", "/root/relay.tar", OLD])
        .await
        .map(drop)
}
