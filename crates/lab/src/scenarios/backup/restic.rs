//! `chatmail backup` and `chatmail restore` on relay c, with restic and a repository on the relay.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::{Account, arrival};

use super::{
    Context, DELIVERED, Facts, OTHER, RELAY, checksums, delivered, fails, install_anew, interrupted, refused,
    unwatched, watched,
};
use crate::harness::mailboxes;

const REPOSITORY: &str = "/srv/backup";
const PASSWORD: &str = "/etc/chatmail-backup-password";
/// Messages that arrive while the backup runs.
const MEANWHILE: usize = 10;
/// A process that keeps the repository locked.
const HOLDER: &str = "lab-holds-the-repository";

async fn shell(context: &Context, script: &str) -> anyhow::Result<String> {
    context.run(RELAY, &["bash", "-euc", script]).await
}

/// The repository is missing, has another password, or is locked.
async fn repository_in_trouble(context: &Context) -> anyhow::Result<()> {
    let run = ["chatmail", "backup", "run"];
    fails(context, &run, "cannot read the password of the repository").await?;
    shell(context, &format!("umask 077; echo secret >{PASSWORD}")).await?;
    fails(context, &run, "create it with `chatmail backup init`").await?;
    context.run(RELAY, &["chatmail", "backup", "init"]).await?;
    fails(
        context,
        &["chatmail", "backup", "init"],
        "cannot create the repository",
    )
    .await?;

    shell(
        context,
        &format!("mv {PASSWORD} {PASSWORD}.right; echo wrong >{PASSWORD}"),
    )
    .await?;
    let wrong = "is not that of the repository";
    fails(context, &run, wrong).await?;
    fails(context, &["chatmail", "backup", "list"], wrong).await?;
    shell(context, &format!("mv {PASSWORD}.right {PASSWORD}")).await?;

    // A backup that waits for its input holds a lock, which keeps others from removing old snapshots.
    let hold = format!(
        "mkfifo /run/{HOLDER}; systemd-run --quiet --unit={HOLDER} sh -c \
         'restic --repo {REPOSITORY} --password-file {PASSWORD} backup --stdin <>/run/{HOLDER}'\n\
         until [ -n \"$(ls {REPOSITORY}/locks)\" ]; do sleep 0.1; done"
    );
    shell(context, &hold).await?;
    fails(context, &run, "unable to create lock").await?;
    let free = format!(
        "systemctl kill --signal=KILL {HOLDER}; rm /run/{HOLDER}; restic --repo {REPOSITORY} --password-file {PASSWORD} unlock --remove-all"
    );
    shell(context, &free).await.map(drop)
}

/// A disk that is too small, and one on which the restore stops half-way.
async fn disk_in_trouble(context: &Context, store: &str) -> anyhow::Result<()> {
    let mount =
        |options: &str| format!("mount -t tmpfs -o {options},mode=0700,uid=vmail,gid=vmail tmpfs {store}");
    let unmount = format!("umount {store}");
    shell(context, &mount("size=64k")).await?;
    fails(context, &["chatmail", "restore"], "nothing was changed").await?;
    shell(context, &unmount).await?;
    context
        .run(RELAY, &["systemctl", "is-active", "dovecot.service"])
        .await?;

    shell(context, &mount("size=1g,nr_inodes=4")).await?;
    fails(
        context,
        &["chatmail", "restore"],
        "the relay is only partly restored",
    )
    .await?;
    shell(context, &unmount).await.map(drop)
}

/// Messages from one account to another while `work` runs.
async fn meanwhile<T>(
    context: &Context,
    from: &Account,
    to: &Account,
    work: impl Future<Output = anyhow::Result<T>>,
) -> anyhow::Result<T> {
    let mail = async {
        for _ in 0..MEANWHILE {
            delivered(context, from, to).await?;
        }
        anyhow::Ok(())
    };
    let (result, mail) = tokio::join!(work, mail);
    mail.context("mail during the backup")?;
    result
}

/// Backs up a relay in service, loses it, and restores it on a fresh host.
pub(crate) async fn lost_relay(context: &Context) -> anyhow::Result<()> {
    let clean = format!("rm -rf {REPOSITORY} {PASSWORD} /var/cache/restic-backups-chatmail");
    shell(context, &clean).await?;
    let (user, other) = (context.account(RELAY).await?, context.account(OTHER).await?);
    let id = delivered(context, &other, &user).await?;
    let before = Facts::of_old(context, &user).await?;

    repository_in_trouble(context).await?;
    let back_up = async {
        let run = ["chatmail", "backup", "run"];
        for _ in 0..2 {
            unwatched(context, &run, "Backed up ").await?;
        }
        watched(context, &run, &["Backing up; ", "Backed up "]).await?;
        interrupted::backup(context).await
    };
    let writer = context.account(RELAY).await?;
    meanwhile(context, &other, &writer, back_up).await?;
    fails(
        context,
        &["chatmail", "restore"],
        "a backup can only be restored on a host without accounts",
    )
    .await?;
    let listed = context
        .run(RELAY, &["chatmail", "backup", "list", "--json"])
        .await?;
    let snapshots: Vec<serde_json::Value> = serde_json::from_str(&listed)?;
    let last = snapshots.last().context("there is no snapshot")?;
    let paths = last["paths"].as_array().context("a snapshot has no paths")?;
    let queue = paths.iter().any(|path| path == "/var/lib/postfix/queue");
    ensure!(!queue && paths.len() >= 5, "the snapshot contains {paths:?}");

    install_anew(context, RELAY).await?;
    let between = checksums(context).await?;
    ensure!(
        between.iter().zip(&before.checksums).all(|(new, old)| new != old),
        "the reset host still has the old keys"
    );
    let dry = context.run(RELAY, &["chatmail", "restore", "--dry-run"]).await?;
    ensure!(dry.starts_with("Would restore "), "{dry}");
    ensure!(checksums(context).await? == between, "a dry run changed keys");
    fails(
        context,
        &["chatmail", "restore", "0000"],
        "there is no snapshot \"0000\"",
    )
    .await?;
    disk_in_trouble(context, &mailboxes::of_domain(&user.peer.mail_domain)).await?;

    interrupted::twice(context, &interrupted::TAR).await?;
    let steps = [
        "Stopping the services …",
        "Restoring ",
        "Comparing all files with the snapshot …",
        "All files are as in the snapshot",
    ];
    watched(context, &["chatmail", "restore"], &steps).await?;
    let after = Facts::of(context, &user).await?;
    ensure!(after == before, "restored: {after:?}, saved: {before:?}");
    refused(&user, "another-password").await?;
    let (mut imap, _) = user.inbox().await.context("the old password")?;
    arrival(&mut imap, &id, Duration::from_secs(10))
        .await
        .context("the old mail")?;
    delivered(context, &user, &other)
        .await
        .context("mail signed with the old key")?;
    tokio::time::timeout(DELIVERED, delivered(context, &other, &user))
        .await?
        .context("new mail")?;
    fails(context, &["chatmail", "restore"], "on a host without accounts").await?;
    interrupted::at_the_end(
        context,
        &["chatmail", "restore"],
        "Everything was restored before",
    )
    .await?;
    shell(context, &clean).await.map(drop)
}
