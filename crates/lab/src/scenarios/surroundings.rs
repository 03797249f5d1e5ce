//! `chatmail` in odd surroundings: outputs that nobody reads, terminals of any kind, full disks, missing rights.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Context;
use super::failures::fails;

const RELAY: &str = "a";

async fn shell(context: &Context, script: &str) -> anyhow::Result<String> {
    context.run(RELAY, &["bash", "-euc", script]).await
}

/// Results and errors that nobody reads: no panic, and the exit status of the command.
pub(super) async fn unread(context: &Context) -> anyhow::Result<()> {
    for (command, status) in [
        ("dns", "0"),
        ("--help", "0"),
        ("account list --json", "0"),
        ("account show nobody-at-all", "1"),
        ("nonsense", "2"),
    ] {
        // The reader of both outputs is gone before the command begins.
        let script = format!(
            "exec 3> >(exec true); wait $!; code=0; chatmail {command} >&3 2>&3 || code=$?; [ $code = {status} ] || echo $code"
        );
        let other = shell(context, &script).await?;
        ensure!(
            other.is_empty(),
            "`chatmail {command}` without a reader exits with {other}"
        );
    }
    let full = shell(context, "! chatmail account list 2>&1 >/dev/full").await?;
    ensure!(
        full.contains("cannot write the output: No space left on device")
            && full.contains("free some disk space"),
        "on a full device: {full}"
    );
    // What is shown only once, on a full device and without a reader.
    for (create, remove, lost) in [
        ("account create", "account delete", "its password is lost"),
        ("invite create", "invite revoke", "its links are lost"),
    ] {
        for script in [
            format!("! chatmail {create} 2>&1 >/dev/full"),
            format!("exec 3> >(exec true); wait $!; ! chatmail {create} 2>&1 >&3"),
        ] {
            let said = shell(context, &script).await?;
            let advice = format!("`chatmail {remove} ");
            let name = said
                .split_once(&advice)
                .and_then(|(_, rest)| rest.split('`').next());
            let name = name
                .filter(|_| said.contains(lost) && !said.contains("run it again"))
                .with_context(|| format!("`{script}` says {said}"))?;
            let yes = if remove == "account delete" { " --yes" } else { "" };
            shell(context, &format!("chatmail {remove} {name}{yes}")).await?;
        }
    }
    // A command that fails prints no JSON, and the reason as text.
    for command in [
        "account show nobody-at-all --json",
        "queue show 4bQ1xxxxxx --json",
        "backup list --json",
        "migrate --json /nonexistent.ini",
    ] {
        let script = format!(
            "code=0; chatmail {command} >/run/lab-out 2>/run/lab-err || code=$?; [ $code = 1 ]; [ ! -s /run/lab-out ]; cat /run/lab-err; rm /run/lab-out /run/lab-err"
        );
        let said = shell(context, &script)
            .await
            .with_context(|| format!("`chatmail {command}`"))?;
        ensure!(said.starts_with("chatmail: "), "`chatmail {command}` says {said}");
    }
    Ok(())
}

/// The width of the terminal changes nothing, and only terminals that want colour get it.
pub(super) async fn terminals(context: &Context) -> anyhow::Result<()> {
    for command in ["dns", "account --help"] {
        let plain = shell(context, &format!("env --unset=COLUMNS chatmail {command}")).await?;
        for columns in ["40", "200", "0", "-1", "many"] {
            let other = shell(context, &format!("COLUMNS={columns} chatmail {command}")).await?;
            ensure!(
                plain == other,
                "`chatmail {command}` with COLUMNS={columns}:\n{other}"
            );
        }
    }
    // What it finds does not matter.
    let doctor = "chatmail doctor units || true";
    for (variables, colour) in [
        ("TERM=xterm", true),
        ("TERM=xterm NO_COLOR=", true),
        ("TERM=xterm NO_COLOR=1", false),
        ("TERM=dumb", false),
    ] {
        let script =
            format!("env --unset=NO_COLOR {variables} script --quiet --command '{doctor}' /dev/null");
        let said = shell(context, &script).await?;
        ensure!(
            said.contains("units") && said.contains('\x1b') == colour,
            "`{doctor}` at a terminal with {variables}: {said:?}"
        );
    }
    let said = shell(context, &format!("TERM=xterm {doctor}")).await?;
    ensure!(!said.contains('\x1b'), "`{doctor}` without a terminal: {said:?}");
    Ok(())
}

/// A settings file that only root can read, and folders on a full disk: a reason, and nothing is left behind.
pub(super) async fn disks_and_rights(context: &Context) -> anyhow::Result<()> {
    let text = shell(context, "cat /etc/chatmail/settings.json").await?;
    let mut settings: Value = serde_json::from_str(&text)?;
    for (pointer, part) in [
        ("/mailboxes/directory", "mail"),
        ("/registration/directory", "registration"),
    ] {
        let folder = settings.pointer_mut(pointer).context(pointer)?;
        *folder = format!("/run/lab-full/{part}").into();
    }
    let prepare = format!(
        "mkdir /run/lab-full; mount -t tmpfs -o size=64k,mode=0755 tmpfs /run/lab-full\n\
         install -d -o vmail -g vmail /run/lab-full/mail /run/lab-full/registration\n\
         install -m 0600 /dev/stdin /run/lab-settings.json <<'END'\n{settings}\nEND\n\
         ! cat /dev/zero 2>/dev/null >/run/lab-full/filler"
    );
    shell(context, &prepare).await?;
    let played = async {
        let with = ["--settings", "/run/lab-settings.json"];
        let account = [&with[..], &["account", "create", "nobodyyet"]].concat();
        let invitation = [&with[..], &["invite", "create"]].concat();
        for arguments in [&account, &invitation] {
            fails(context, "root", arguments, 1, "free some disk space").await?;
            fails(context, "nobody", arguments, 1, "run this command as root").await?;
        }
        let left = shell(
            context,
            "find /run/lab-full/mail /run/lab-full/registration -mindepth 1",
        )
        .await?;
        ensure!(left.is_empty(), "commands on a full disk leave:\n{left}");
        shell(context, "rm /run/lab-full/filler").await?;
        for arguments in [&account, &invitation] {
            let argv = [&["chatmail"], &arguments[..]].concat();
            context.run(RELAY, &argv).await.context("once there is room")?;
        }
        anyhow::Ok(())
    };
    let played = played.await;
    shell(
        context,
        "umount /run/lab-full; rmdir /run/lab-full; rm /run/lab-settings.json",
    )
    .await?;
    played
}
