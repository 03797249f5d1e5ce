//! Access of local processes on a relay to its sockets, keys, mailboxes and queue. The relay does not trust a process
//! because it is local.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::harness::mailboxes;

/// Folder in a machine with the probe and its targets.
const FOLDER: &str = "var/lib/lab-probe";
const PROBE: &str = include_str!("../../files/probe.pl");
/// Prefix of the probe's units; the name of the user or service follows.
const UNIT: &str = "lab-probe-";
/// Files with the probe's targets. Only users try to run programs, because sandboxes kill services that do.
const TARGETS: &str = "targets";
const TARGETS_OF_USERS: &str = "targets-of-users";
/// Sends mail that bypasses the filters and gets a signature.
const SENDMAIL: &str = "run /run/wrappers/bin/sendmail -i root";
/// Postfix's queue directory; Postfix uses socket paths relative to it.
const QUEUE: &str = "/var/lib/postfix/queue";
/// Sockets that belong to systemd.
const SYSTEM: [&str; 3] = ["/run/systemd/", "/run/dbus/", "/run/user/"];

/// Lines of `[Service]` that the probe's unit replaces, or that would affect files of the real service.
const LEFT_OUT: [&str; 13] = [
    "Exec",
    "Type",
    "Restart",
    "Watchdog",
    "RuntimeDirectory",
    "RuntimeMaxSec",
    "StateDirectory",
    "CacheDirectory",
    "LogsDirectory",
    "PIDFile",
    "Sockets",
    "LogFilterPatterns",
    "RemainAfterExit",
];

/// Permissions of the probe.
enum Who {
    /// This user, without a sandbox.
    User(&'static str),
    /// The user and the sandbox of this service.
    Service(&'static str),
}

impl Who {
    fn name(&self) -> &'static str {
        match self {
            Self::User(name) | Self::Service(name) => name,
        }
    }
}

/// Ports on loopback, open to all local processes. The ports of Postfix and Dovecot behind the front trust the client
/// address in the PROXY header, but require a password like the public ports.
const OPEN: &[&str] = &[
    "tcp 127.0.0.1:53",
    // iroh-relay and the TURN server, as from outside.
    "tcp 127.0.0.1:3340",
    "tcp 127.0.0.1:3478",
    // filtermail-transport, which serves only connections from Postfix: `only-postfix-delivers-over-https`.
    "tcp 127.0.0.1:10083",
    // IMAP over WebSocket.
    "tcp 127.0.0.1:10143",
    "tcp 127.0.0.1:10465",
    // Metrics.
    "tcp 127.0.0.1:10903",
    "tcp 127.0.0.1:10904",
    "tcp 127.0.0.1:10993",
];
/// The hashes of invitations.
const REGISTRATION: &str = "list /var/lib/chatmail-registration";
/// Targets that the owner of the mailboxes can access.
const MAILBOXES: &[&str] = &[
    "unix /run/chatmail-lastlogin/lastlogin.socket",
    "unix /run/chatmail-metadata/metadata.socket",
    "unix /run/dovecot2/anvil",
    "unix /run/dovecot2/auth-userdb",
    "unix /run/dovecot2/quota-warning",
    "list /var/lib/chatmail-metadata",
    REGISTRATION,
    "list /home/vmail/mail/*",
    "read /home/vmail/mail/*",
];
/// Sockets of Postfix that the filters can access: its public sockets, including those behind the filters.
const PUBLIC: &[&str] = &["unix /var/lib/postfix/queue/public/*"];

/// Sockets on which the filters deliver to mailboxes and report that.
const DELIVERY: &[&str] = &[
    "unix /run/dovecot2/lmtp-filters",
    "unix /run/chatmail-metadata/delivered.socket",
];

/// Other targets that each may access; a `*` at the end matches anything. All other targets must be closed.
const ALLOWED: [(Who, &[&[&str]]); 21] = [
    (Who::User("nobody"), &[]),
    (
        Who::User("postfix"),
        &[
            PUBLIC,
            &[
                "unix /run/filtermail/*",
                "unix /run/doveauth/sasl.socket",
                "unix /run/chatmail-metadata/delivered.socket",
                "unix /run/opendkim/opendkim.sock",
                // It is in that group for the socket; only the owner can read the key.
                "list /var/lib/chatmail-dkim",
                "unix /var/lib/postfix/queue/private/*",
                "list /var/lib/postfix/queue/*",
            ],
        ],
    ),
    (Who::User("vmail"), &[MAILBOXES]),
    (
        Who::User("dovenull"),
        &[&["unix /run/dovecot2/login/*", "unix /run/dovecot2/token-login/*"]],
    ),
    (Who::User("dovecot2"), &[&["unix /run/dovecot2/*"]]),
    (
        Who::User("nginx"),
        &[&[
            "unix /run/newemail/newemail.socket",
            "unix /run/filtermail/mxdeliv.socket",
            "unix /run/chatmail-websocket/websocket.socket",
            "unix /run/nginx/*",
        ]],
    ),
    (Who::Service("doveauth"), &[MAILBOXES]),
    (Who::Service("lastlogin"), &[MAILBOXES]),
    (Who::Service("chatmail-metadata"), &[MAILBOXES]),
    (Who::Service("filtermail-outgoing"), &[PUBLIC, DELIVERY]),
    (
        Who::Service("filtermail-incoming"),
        &[MAILBOXES, PUBLIC, DELIVERY],
    ),
    (Who::Service("filtermail-mxdeliv"), &[PUBLIC]),
    (Who::Service("filtermail-transport"), &[]),
    (Who::Service("newemail"), &[&[REGISTRATION]]),
    (Who::Service("chatmail-websocket"), &[PUBLIC]),
    (
        Who::Service("opendkim"),
        &[&[
            "unix /run/opendkim/opendkim.sock",
            "list /var/lib/chatmail-dkim",
            "read /var/lib/chatmail-dkim/*",
        ]],
    ),
    (Who::Service("mtail"), &[]),
    (Who::Service("chatmail-turn"), &[]),
    (Who::Service("iroh-relay"), &[]),
    (
        Who::Service("nginx"),
        &[&[
            "unix /run/newemail/newemail.socket",
            "unix /run/filtermail/mxdeliv.socket",
            "unix /run/chatmail-websocket/websocket.socket",
            "unix /run/nginx/*",
        ]],
    ),
    (Who::Service("unbound"), &[]),
];

/// Whether a line of the probe matches an allowed target.
fn is_allowed(line: &str, allowed: &[&[&str]]) -> bool {
    let matches = |pattern: &&str| match pattern.strip_suffix('*') {
        Some(start) => line.starts_with(start),
        None => line == *pattern,
    };
    OPEN.iter().any(matches) || allowed.iter().any(|group| group.iter().any(matches))
}

/// Parses the loopback ports in the output of `ss -Hltn`: `LISTEN 0 4096 127.0.0.1:53 0.0.0.0:*`.
fn loopback_ports(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(3))
        .filter(|at| at.starts_with("127."))
        // The address may include its interface: `127.0.0.53%lo:53`.
        .filter_map(|at| {
            let (address, port) = at.rsplit_once(':')?;
            Some(format!("{}:{port}", address.split('%').next()?))
        })
        .collect()
}

/// Parses the socket paths in the output of `ss -Hxl`: `u_str LISTEN 0 4096 /run/x 1234 * 0`.
fn unix_sockets(text: &str) -> BTreeSet<String> {
    text.lines()
        .filter_map(|line| line.split_whitespace().nth(4))
        // The names of abstract sockets begin with an @.
        .filter(|path| !path.starts_with('@') && *path != "*")
        .map(|path| match path.strip_prefix('/') {
            Some(_) => path.to_owned(),
            None => format!("{QUEUE}/{path}"),
        })
        .filter(|path| !SYSTEM.iter().any(|system| path.starts_with(system)))
        .collect()
}

/// Returns a unit that runs the probe with the permissions of a service, made from the service's unit.
fn unit(name: &str, service: &str) -> String {
    let mut lines = vec!["[Service]".to_owned()];
    let mut inside = false;
    for line in service.lines() {
        if line.starts_with('[') {
            inside = line == "[Service]";
        } else if inside && !LEFT_OUT.iter().any(|key| line.starts_with(key)) {
            lines.push(line.to_owned());
        }
    }
    let sets = |key: &str| lines.iter().any(|line| line.starts_with(key));
    if sets("DynamicUser=true") && !sets("User=") {
        // Units with the same dynamic user name share one user.
        lines.push(format!("User={name}"));
    }
    probe(lines, name, TARGETS)
}

fn probe(mut lines: Vec<String>, name: &str, targets: &str) -> String {
    lines.extend([
        "Type=oneshot".to_owned(),
        format!("ExecStart=/usr/bin/perl /{FOLDER}/probe.pl /{FOLDER}/{targets}"),
        format!("StandardOutput=truncate:/{FOLDER}/{name}.reached"),
    ]);
    lines.join("\n") + "\n"
}

/// Returns all targets on a relay: its sockets, and files that hold secrets or mail.
async fn targets(context: &Context, relay: &str) -> anyhow::Result<Vec<String>> {
    let sockets = unix_sockets(&context.run(relay, &["ss", "-Hxl"]).await?);
    ensure!(
        sockets
            .iter()
            .any(|path| path.ends_with("/lmtp") || path.ends_with("/dovecot-lmtp")),
        "relay {relay} has no sockets: {sockets:?}"
    );
    let domain = context.peer(relay)?.mail_domain;
    let store = mailboxes::of_domain(&domain);
    let account = context.account(relay).await?.address;
    let mut targets: Vec<String> = sockets.iter().map(|path| format!("unix {path}")).collect();
    let ports = loopback_ports(&context.run(relay, &["ss", "-Hltn"]).await?);
    targets.extend(ports.iter().map(|at| format!("tcp {at}")));
    let key = context
        .run(relay, &["doveconf", "-h", "ssl_server_key_file"])
        .await?;
    targets.push(format!("read {}", key.trim()));
    targets.extend(
        [
            "list /var/lib/chatmail-dkim",
            "read /var/lib/chatmail-dkim/opendkim.private",
            "list /var/lib/chatmail-turn",
            "read /var/lib/chatmail-turn/secret",
            "list /var/lib/chatmail-metadata",
        ]
        .map(str::to_owned),
    );
    targets.push(REGISTRATION.to_owned());
    targets.push(format!("list {store}"));
    targets.push(format!("read {store}/{account}/password"));
    for folder in [
        "active", "bounce", "defer", "deferred", "incoming", "maildrop", "private", "public",
    ] {
        targets.push(format!("list {QUEUE}/{folder}"));
    }
    Ok(targets)
}

pub(super) async fn processes(context: &Context) -> anyhow::Result<()> {
    let relay = "a";
    let root = context.machines().root(relay);
    let folder = root.join(FOLDER);
    fs::create_dir_all(&folder)?;
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755))?;
    fs::write(folder.join("probe.pl"), PROBE)?;
    let targets = targets(context, relay).await?.join("\n") + "\n";
    fs::write(folder.join(TARGETS), &targets)?;
    fs::write(folder.join(TARGETS_OF_USERS), format!("{targets}{SENDMAIL}\n"))?;
    let units = root.join("etc/systemd/system");
    let mut starts = Vec::new();
    for (who, _) in &ALLOWED {
        let text = match who {
            Who::User(name) => probe(
                vec!["[Service]".to_owned(), format!("User={name}")],
                &format!("user-{name}"),
                TARGETS_OF_USERS,
            ),
            Who::Service(name) => unit(
                name,
                &context
                    .run(relay, &["systemctl", "cat", &format!("{name}.service")])
                    .await?,
            ),
        };
        let unit = format!("{UNIT}{}.service", result(who));
        fs::write(units.join(&unit), text)?;
        starts.push(unit);
    }
    context.run(relay, &["systemctl", "daemon-reload"]).await?;
    let mut start = vec!["systemctl", "start"];
    start.extend(starts.iter().map(String::as_str));
    let started = context.run(relay, &start).await;
    for unit in &starts {
        fs::remove_file(units.join(unit))?;
    }
    context.run(relay, &["systemctl", "daemon-reload"]).await?;
    started?;

    let (mut wrong, mut seen) = (BTreeMap::new(), BTreeSet::new());
    for (who, allowed) in &ALLOWED {
        let file = folder.join(format!("{}.reached", result(who)));
        let reached = fs::read_to_string(&file).with_context(|| format!("reading {}", file.display()))?;
        let reached = reached
            .strip_suffix("end\n")
            .with_context(|| format!("the probe of {} did not finish", who.name()))?;
        let more: Vec<&str> = reached
            .lines()
            .filter(|line| !is_allowed(line, allowed))
            .collect();
        if !more.is_empty() {
            wrong.insert(result(who), more.join(", "));
        }
        // The intended user of each socket must be able to access it: a probe that finds nothing proves nothing.
        for group in allowed.iter().chain([&OPEN]) {
            for pattern in *group {
                let start = pattern.trim_end_matches('*');
                seen.extend(
                    reached
                        .lines()
                        .any(|line| line.starts_with(start))
                        .then_some(*pattern),
                );
            }
        }
    }
    let stale: Vec<&&str> = OPEN.iter().filter(|open| !seen.contains(*open)).collect();
    ensure!(stale.is_empty(), "no process can access {stale:?}");
    for needed in [
        "unix /run/filtermail/*",
        PUBLIC.concat().as_str(),
        "read /var/lib/chatmail-dkim/*",
    ] {
        ensure!(seen.contains(needed), "no process can access {needed}");
    }
    ensure!(
        wrong.is_empty(),
        "processes have access that they must not have: {wrong:#?}"
    );
    Ok(())
}

fn result(who: &Who) -> String {
    match who {
        Who::User(name) => format!("user-{name}"),
        Who::Service(name) => (*name).to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn listeners_are_read() {
        let text = "u_str LISTEN 0 4096 /run/x/y.socket 1234 * 0\n\
                    u_str LISTEN 0 100 private/auth 1 * 0\n\
                    u_str LISTEN 0 100 @abstract 1 * 0\n\
                    u_seq LISTEN 0 5 /run/systemd/notify 2 * 0\n";
        assert_eq!(
            unix_sockets(text),
            BTreeSet::from(["/run/x/y.socket".to_owned(), format!("{QUEUE}/private/auth")])
        );
    }

    #[test]
    fn ports_of_loopback_are_read() {
        let text = "LISTEN 0 4096 127.0.0.53%lo:53 0.0.0.0:*\nLISTEN 0 4096 127.0.0.1:3903 0.0.0.0:*\n\
                    LISTEN 0 100 0.0.0.0:25 0.0.0.0:*\nLISTEN 0 100 [::1]:53 [::]:*\n";
        assert_eq!(
            loopback_ports(text),
            BTreeSet::from(["127.0.0.53:53".to_owned(), "127.0.0.1:3903".to_owned()])
        );
    }

    #[test]
    fn a_probe_has_the_sandbox_of_its_service_and_touches_nothing_of_it() {
        let service = "# /etc/x.service\n[Unit]\nDescription=x\n[Service]\nDynamicUser=true\nExecStart=/x\n\
                       ProtectSystem=strict\nRuntimeDirectory=x\nType=notify\n[Install]\nWantedBy=y\n";
        let text = unit("x", service);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines,
            [
                "[Service]",
                "DynamicUser=true",
                "ProtectSystem=strict",
                "User=x",
                "Type=oneshot",
                "ExecStart=/usr/bin/perl /var/lib/lab-probe/probe.pl /var/lib/lab-probe/targets",
                "StandardOutput=truncate:/var/lib/lab-probe/x.reached",
            ]
        );
    }
}
