//! `chatmail migrate import` and `export` on relay c. A reference relay with its domain lies on relay a.

use anyhow::{Context as _, ensure};
use mailtest::client::message::random_name;
use mailtest::client::{Account, arrival};

use super::{
    Context, DELIVERED, KEY, MAILBOX, OTHER, RELAY, delivered, fails, install_anew, interrupted, refused,
    unwatched, watched,
};
use crate::harness::mailboxes;

/// SSH server of the old relay.
const SSHD: &str = "lab-sshd";
const TURN_SECRET: &str = "/var/lib/chatmail-turn/secret";
/// Where the way back leads.
const BACK: &str = "/root/reference-again";
/// A key for SSH on relay c.
const SSH_KEY: &str = "~/.ssh/id_ed25519";

/// Lets root on relay c log in on the old relay.
async fn connect(context: &Context) -> anyhow::Result<()> {
    let make = format!(
        "mkdir -p -m 0700 ~/.ssh; [ -e {SSH_KEY} ] || ssh-keygen -q -t ed25519 -N '' -f {SSH_KEY}; cat {SSH_KEY}.pub"
    );
    let key = context.run(RELAY, &["bash", "-euc", &make]).await?;
    let serve = format!(
        "mkdir -p -m 0700 ~/.ssh /run/sshd; echo '{}' >~/.ssh/authorized_keys\n\
         systemd-run --quiet --unit={SSHD} --collect /usr/sbin/sshd -D -f /dev/null -o UsePAM=no\n\
         until [ -n \"$(ss -Hltn 'sport = :22')\" ]; do sleep 0.1; done",
        key.trim()
    );
    context.run(OTHER, &["bash", "-euc", &serve]).await?;
    let know = "ssh-keyscan -t ed25519 _a.test >~/.ssh/known_hosts";
    context.run(RELAY, &["bash", "-euc", know]).await.map(drop)
}

/// Creates a mailbox of the reference relay for `user` below `root` on relay a.
async fn make_old(context: &Context, user: &Account, mark: &str) -> anyhow::Result<()> {
    let variables = [
        "OLD=".to_owned(),
        format!("DOMAIN={}", user.peer.domain),
        format!("ADDRESS={}", user.address),
        format!("PASSWORD={}", user.password),
        format!("MARK={mark}"),
    ];
    let script = MAILBOX.replace(
        "chown -R vmail:vmail \"$OLD/home/vmail\"",
        "chown -R vmail:vmail \"$OLD/home/vmail/mail/$DOMAIN\"",
    );
    let mut make = vec!["env"];
    make.extend(variables.iter().map(String::as_str));
    make.extend(["bash", "-euc", &script]);
    context.run(OTHER, &make).await.map(drop)
}

/// The mailbox, with the messages `expected`, and the key.
async fn arrived(context: &Context, user: &Account, mark: &str, expected: &[&str]) -> anyhow::Result<()> {
    let password = format!("{}/password", mailboxes::of(user));
    let stat = context
        .run(RELAY, &["stat", "--format=%U %G %a %Y", &password])
        .await?;
    ensure!(
        stat.trim() == "vmail vmail 600 1767312000",
        "the password file is {stat}"
    );
    let stat = context.run(RELAY, &["stat", "--format=%U %a", KEY]).await?;
    ensure!(stat.trim() == "opendkim 600", "the key is {stat}");
    refused(user, "another-password").await?;
    let (mut imap, count) = user.inbox().await.context("the old password")?;
    ensure!(
        count as usize == expected.len(),
        "{count} messages instead of {expected:?}"
    );
    for name in expected {
        arrival(&mut imap, &format!("<{name}-{mark}>"), DELIVERED).await?;
    }
    Ok(())
}

/// Import over SSH in two steps, and the way back to a folder.
pub(crate) async fn there_and_back(context: &Context) -> anyhow::Result<()> {
    let peer = context.peer(RELAY)?;
    let user = Account::random(&peer);
    let mark = format!("{}@{}", random_name(9), peer.domain);
    connect(context).await?;
    make_old(context, &user, &mark).await?;
    let large = format!(
        "head --bytes=8M /dev/urandom >/home/vmail/mail/{}/{}/{}",
        peer.domain,
        user.address,
        interrupted::LARGE
    );
    context.run(OTHER, &["bash", "-euc", &large]).await?;
    let import = interrupted::RSYNC.argv;
    let last = [import, &["--final"]].concat();

    context.account(RELAY).await?;
    fails(context, import, "on a host without accounts").await?;
    install_anew(context, RELAY).await?;
    fails(
        context,
        &["chatmail", "migrate", "import", "--from", "/nowhere"],
        "has no mailboxes of",
    )
    .await?;
    fails(
        context,
        &["chatmail", "migrate", "import", "--from", "root@198.18.25.1"],
        "cannot connect to",
    )
    .await?;
    let dry = context.run(RELAY, &[import, &["--dry-run"]].concat()).await?;
    ensure!(dry.starts_with("Would import 1 account(s)"), "{dry}");
    context
        .run(RELAY, &["systemctl", "is-active", "dovecot.service"])
        .await?;

    // The old relay is in service: a client reads a message and deletes another one between the two imports.
    fails(context, &last, "still runs on root@_a.test").await?;
    let store = mailboxes::of_domain(&peer.mail_domain);
    let small = format!("mount -t tmpfs -o size=1m,mode=0700,uid=vmail,gid=vmail tmpfs {store}");
    context.run(RELAY, &["bash", "-euc", &small]).await?;
    fails(context, import, "No space left on device").await?;
    context.run(RELAY, &["umount", &store]).await?;
    interrupted::twice(context, &interrupted::RSYNC).await?;
    let steps = [
        "Counting the files of root@_a.test …",
        "Stopping the services of this host …",
        "Copying root@_a.test:",
        // rsync's own progress.
        "100%",
        "Counting the files of this host …",
        "Imported ",
    ];
    watched(context, import, &steps).await?;
    let change = format!(
        "cd /home/vmail/mail/{}/{}; mv new/1760000000.* cur/; cd cur; \
         for file in 1760000000.*; do mv $file $file:2,S; done; rm 1760000001.*",
        peer.domain, user.address
    );
    context.run(OTHER, &["bash", "-euc", &change]).await?;
    // Whatever an interrupted copy has left is completed.
    let half = format!("echo half >{}/cur/.half", mailboxes::of(&user));
    context.run(RELAY, &["bash", "-euc", &half]).await?;
    context
        .run(OTHER, &["systemctl", "stop", "postfix", "dovecot"])
        .await?;
    let finished = unwatched(context, &last, "are those of the old relay").await;
    context
        .run(OTHER, &["systemctl", "start", "dovecot", "postfix"])
        .await?;
    finished?;
    arrived(context, &user, &mark, &["plain"]).await?;
    let secret = ["sha256sum", TURN_SECRET];
    let (ours, theirs) = (
        context.run(RELAY, &secret).await?,
        context.run(OTHER, &secret).await?,
    );
    ensure!(ours == theirs, "the TURN secret is not that of the old relay");
    fails(context, &last, "on a host without accounts").await?;
    interrupted::at_the_end(context, &last, "Everything was imported before").await?;

    let zone = context.run(RELAY, &["chatmail", "dns", "--zone"]).await?;
    context.machines().publish(&peer.domain, &zone).await?;
    for unit in ["unbound.service", "filtermail-incoming.service"] {
        context.run(OTHER, &["systemctl", "restart", unit]).await?;
    }
    let other = context.account(OTHER).await?;
    delivered(context, &user, &other)
        .await
        .context("mail signed with the imported key")?;

    // The way back, and in again from there.
    let touch = format!("{}/password", mailboxes::of(&user));
    context
        .run(RELAY, &["touch", "--date=2026-01-02 00:00:00 UTC", &touch])
        .await?;
    let export = ["chatmail", "migrate", "export", "--to", BACK];
    let dry = context
        .run(RELAY, &[&export[..], &["--dry-run"]].concat())
        .await?;
    ensure!(dry.starts_with("Would export 1 account(s)"), "{dry}");
    let steps = [
        "Stopping the services of this host …",
        "Comparing the files of both …",
        "Exported 1 account(s)",
    ];
    watched(context, &export, &steps).await?;
    let compare = format!(
        "diff -r /home/vmail/mail/{0} {BACK}/home/vmail/mail/{0}; cmp {KEY} {BACK}/etc/dkimkeys/opendkim.private",
        peer.domain
    );
    context.run(RELAY, &["bash", "-euc", &compare]).await?;
    install_anew(context, RELAY).await?;
    context
        .run(
            RELAY,
            &["chatmail", "migrate", "import", "--from", BACK, "--final"],
        )
        .await?;
    arrived(context, &user, &mark, &["plain"]).await?;
    let clean = format!(
        "systemctl stop {SSHD}; rm -r /home/vmail/mail/{} /etc/dkimkeys",
        peer.domain
    );
    context.run(OTHER, &["bash", "-euc", &clean]).await?;
    context.run(RELAY, &["rm", "-r", BACK]).await.map(drop)
}
