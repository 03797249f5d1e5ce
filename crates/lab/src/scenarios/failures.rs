//! Every command of `chatmail` fails with a reason and a next step, on a relay in service that stays as it is. Failures
//! that need a broken relay are in the scenarios of their commands.

use anyhow::ensure;

use super::Context;
use super::operator::unbroken;

const RELAY: &str = "a";

/// Arguments of `chatmail`, and a part of what it says.
type Row = (&'static [&'static str], &'static str);

/// Commands that fail with exit status 1.
const FAILURES: &[Row] = &[
    (
        &["--settings", "/nonexistent.json", "status"],
        "/nonexistent.json",
    ),
    (
        &["doctor", "nonsense"],
        "there is no check \"nonsense\"; there are: units, ",
    ),
    (&["doctor", "--from=-oProxyCommand=x"], "is not a machine for ssh"),
    (
        &["account", "show", "abcdefghi"],
        "there is no account abcdefghi@_a.test",
    ),
    (&["account", "show", "a b"], "names no account"),
    (
        &["account", "show", "abcdefghi@other.test"],
        "is not an address of this relay",
    ),
    (&["account", "create", "UPPER"], "cannot create"),
    (
        &["account", "create", "abcdefghi@other.test"],
        "is not an address of this relay",
    ),
    (
        &["account", "delete", "--yes", "abcdefghi"],
        "there is no account",
    ),
    (&["account", "ban", "abcdefghi"], "there is no account"),
    (&["account", "unban", "abcdefghi"], "there is no account"),
    (
        &["invite", "revoke", "ffffffff"],
        "`chatmail invite list` shows all of them",
    ),
    (&["invite", "revoke", ""], "there is no invitation"),
    (&["queue", "show", "ALL"], "`chatmail queue` lists them"),
    (
        &["queue", "retry", "4bQ1xxxxxx"],
        "there is no message \"4bQ1xxxxxx\"",
    ),
    (&["queue", "drop", "ALL"], "there is no message \"ALL\""),
    (
        &["ports", "--mx-of", "nowhere.test"],
        "nowhere.test has no mail server",
    ),
    (&["migrate", "/nonexistent.ini"], "cannot read /nonexistent.ini"),
    (&["migrate", "/etc/hostname"], "cannot parse /etc/hostname"),
    (
        &["migrate", "import", "--from", "/nonexistent"],
        "on a host without accounts",
    ),
    (
        &["migrate", "export", "--to", "root@nowhere.test"],
        "cannot connect to root@nowhere.test",
    ),
    (&["backup", "init"], "set services.chatmail.backup.repository"),
    (&["backup", "run"], "set services.chatmail.backup.repository"),
    (&["backup", "list"], "set services.chatmail.backup.repository"),
    (&["restore"], "set services.chatmail.backup.repository"),
    (
        &["website", "--source", "/nonexistent", "--output", "/run/site"],
        "cannot list /nonexistent",
    ),
    (
        &["status-page", "--output", "/nonexistent/values"],
        "cannot write /nonexistent/values",
    ),
    (
        &["manual", "--output", "/proc/nonexistent"],
        "cannot create /proc/nonexistent",
    ),
];

/// Arguments that are wrong: exit status 2.
const WRONG: &[Row] = &[
    (&["nonsense"], "unrecognized subcommand"),
    (&["status", "--nonsense"], "unexpected argument"),
    (&["dns", "--check", "--zone"], "cannot be used with"),
    (&["dns", "--serial", "1"], "required"),
    (&["invite", "create", "--uses", "0"], "invalid value"),
    (
        &["invite", "create", "--expires", "1y"],
        "such as `12h`, `7d` or `2w`",
    ),
    (&["migrate"], "required"),
    (
        &["migrate", "import", "--from", "old"],
        "expected root@HOST, or an absolute path",
    ),
    (
        &["migrate", "import", "--from", "/", "--final", "--dry-run"],
        "cannot be used with",
    ),
    (&["queue", "drop"], "required"),
    (&["account", "delete"], "required"),
];

/// Commands that only root can run.
const FOR_ROOT: &[&[&str]] = &[
    &["account", "list"],
    &["account", "show", "abcdefghi"],
    &["account", "create", "abcdefghi"],
    &["account", "ban", "abcdefghi"],
    &["invite", "create"],
    &["invite", "list"],
    &["destinations"],
    &["dns"],
    &["dns", "--check"],
];

pub(super) async fn reasons(context: &Context) -> anyhow::Result<()> {
    let account = context.account(RELAY).await?;
    let taken: &[&str] = &["account", "create", &account.address];
    let well: &[&str] = &["account", "unban", &account.address];
    let own = [(taken, "already exists"), (well, "is not banned")];
    for (arguments, part) in FAILURES.iter().copied().chain(own) {
        fails(context, "root", arguments, 1, part).await?;
    }
    for (arguments, part) in WRONG.iter().copied() {
        fails(context, "root", arguments, 2, part).await?;
    }
    for arguments in FOR_ROOT.iter().copied() {
        fails(context, "nobody", arguments, 1, "run this command as root").await?;
    }
    // Nothing has changed.
    account.imap().await.map(drop)
}

/// Runs a command as a user, which must exit with this status and say this.
pub(super) async fn fails(
    context: &Context,
    user: &str,
    arguments: &[&str],
    status: i32,
    part: &str,
) -> anyhow::Result<()> {
    let argv = [
        &["setpriv", "--reuid", user, "--clear-groups", "--", "chatmail"][..],
        arguments,
    ]
    .concat();
    let output = context.machines().exec(RELAY, &argv).await?;
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    ensure!(
        output.status.code() == Some(status) && unbroken(&text).contains(part),
        "`chatmail {}` as {user} must exit with {status} and say {part:?}, but: {} {text}",
        arguments.join(" "),
        output.status
    );
    ensure!(!text.contains("panicked"), "{text}");
    Ok(())
}
