//! Imports, restores and backups that a signal ends in the middle, on relay c.

use anyhow::ensure;

use super::{Context, RELAY, fails};

/// A program in front of the real one, which does only a part of its work.
const SLOW: &str = "/run/lab-slow";
/// What the command says.
const SAID: &str = "/run/lab-said";
/// Name of a file of the old relay that is copied slowly.
pub(super) const LARGE: &str = "lab-large";
/// Unit of the backup.
const UNIT: &str = "restic-backups-chatmail.service";

/// A command that can be interrupted.
pub(super) struct Long<'a> {
    pub(super) argv: &'a [&'a str],
    /// Name of the program that does the work.
    pub(super) program: &'a str,
    /// Command line of a program that does only a part, with REAL for the program itself.
    pub(super) slowly: &'a str,
    /// Tells that a part is done.
    pub(super) half: &'a str,
    /// Exists until the command has finished.
    pub(super) mark: &'a str,
    /// What the command says when it is interrupted.
    pub(super) advice: &'a str,
}

/// Copies the file [`LARGE`] in minutes.
pub(super) const RSYNC: Long<'_> = Long {
    argv: &["chatmail", "migrate", "import", "--from", "root@_a.test"],
    program: "rsync",
    slowly: r#"exec REAL --bwlimit=8 "$@""#,
    half: "[ -n \"$(find /home/vmail/mail -name '.lab-large.*')\" ]",
    mark: "/var/lib/chatmail/import-unfinished",
    advice: "run the same command again to continue",
};

/// Extracts the beginning of the archive, and waits.
pub(super) const TAR: Long<'_> = Long {
    argv: &["chatmail", "restore"],
    program: "tar",
    slowly: r#"exec REAL "$@" < <(head --bytes=20K; touch /run/lab-half; while kill -0 $$; do sleep 0.1; done)"#,
    half: "[ -e /run/lab-half ]",
    mark: "/var/lib/chatmail/restore-incomplete",
    advice: "run `chatmail restore` again",
};

/// Ends the command in the middle, once with SIGINT and once with SIGKILL. Nobody else does the same work meanwhile,
/// its programs end with it, the services do not start, as after a reboot, and the relay counts as incomplete.
pub(super) async fn twice(context: &Context, long: &Long<'_>) -> anyhow::Result<()> {
    let Long {
        program,
        slowly,
        half,
        mark,
        ..
    } = long;
    let command = long.argv.join(" ");
    for signal in ["INT", "KILL"] {
        let script = format!(
            "mkdir -p {SLOW}; rm -f /run/lab-half; real=$(command -v {program})\n\
             printf '#!/bin/bash\\n%s\\n' '{slowly}' | sed \"s|REAL|$real|\" >{SLOW}/{program}; chmod +x {SLOW}/{program}\n\
             PATH={SLOW}:$PATH {command} 2>{SAID} & id=$!\n\
             until {half}; do kill -0 $id || {{ cat {SAID} >&2; exit 1; }}; sleep 0.05; done\n\
             {command} 2>&1 | grep -q 'another import or restore is under way'\n\
             kill -{signal} $id; if wait $id; then exit 1; fi\n\
             while pgrep --exact '{program}|restic' >&2; do sleep 0.05; done\n\
             [ -e {mark} ]; systemctl start postfix dovecot; if systemctl is-active postfix dovecot >&2; then exit 1; fi\n\
             rm -rf {SLOW} /run/lab-half; cat {SAID}"
        );
        let said = context.run(RELAY, &["bash", "-euc", &script]).await?;
        ensure!(
            signal == "KILL" || said.contains(long.advice),
            "`{command}` says {said:?} when it is interrupted"
        );
        fails(
            context,
            &["chatmail", "backup", "run"],
            "this relay is incomplete",
        )
        .await?;
    }
    Ok(())
}

/// Work that was interrupted when only the services were missing starts them.
pub(super) async fn at_the_end(context: &Context, argv: &[&str], expected: &str) -> anyhow::Result<()> {
    let stop = "systemctl stop postfix dovecot; touch /var/lib/chatmail/services-to-start";
    context.run(RELAY, &["bash", "-euc", stop]).await?;
    let said = context.run(RELAY, argv).await?;
    ensure!(said.contains(expected), "`{}` says {said}", argv.join(" "));
    let after = "systemctl is-active dovecot; systemctl is-active postfix; [ ! -e /var/lib/chatmail/services-to-start ]";
    context.run(RELAY, &["bash", "-euc", after]).await.map(drop)
}

/// A backup goes on without the command, which finds it again.
pub(super) async fn backup(context: &Context) -> anyhow::Result<()> {
    for signal in ["INT", "KILL"] {
        let script = format!(
            "chatmail backup run 2>{SAID} & id=$!\n\
             state() {{ systemctl show --property=ActiveState --value {UNIT}; }}\n\
             until [ $(state) = activating ]; do kill -0 $id || {{ cat {SAID} >&2; exit 1; }}; sleep 0.05; done\n\
             systemctl kill --signal=STOP {UNIT}\n\
             kill -{signal} $id; if wait $id; then exit 1; fi\n\
             while pgrep --exact systemctl >&2; do sleep 0.05; done\n\
             [ $(state) = activating ]\n\
             systemctl kill --signal=CONT {UNIT}; chatmail backup run; cat {SAID}"
        );
        let said = context.run(RELAY, &["bash", "-euc", &script]).await?;
        ensure!(
            said.contains("Backed up ") && (signal == "KILL" || said.contains("the backup goes on")),
            "an interrupted backup says {said:?}"
        );
    }
    Ok(())
}
