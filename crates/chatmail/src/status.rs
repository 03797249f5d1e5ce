//! `chatmail status`: the state of the relay.

pub(crate) mod system;

use std::fmt::Write as _;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::time::{Duration, SystemTime};

use anyhow::Context as _;
use chatmail_core::Settings;
use chatmail_core::account::MailStore;
use chatmail_core::limits::Resources;
use chatmail_core::registration::Register;
use chatmail_core::settings::{RegistrationMode, TlsMode};
use serde::Serialize;

use self::system::{EXPIRE, Sockets, Unit};
use crate::account::size;
use crate::answer::entry;
use crate::destinations::Report;
use crate::dial::Dial;
use crate::times::minute;
use crate::{queue, tls};

/// The port for mail from other servers.
const SMTP_PORT: u16 = 25;
/// The other ports of the relay for clients and other relays.
const PORTS: [u16; 6] = [80, 143, 443, 465, 587, 993];

/// The public ports of a relay with these settings.
pub(crate) fn ports(settings: &Settings) -> impl Iterator<Item = u16> {
    let smtp = settings.federation.smtp.receive.then_some(SMTP_PORT);
    smtp.into_iter().chain(PORTS)
}

/// The ways of mail in one direction, with HTTPS first, as the relay tries them.
pub(crate) fn ways(https: bool, smtp: bool) -> Vec<&'static str> {
    let ways = [("HTTPS", https), ("SMTP", smtp)];
    ways.into_iter()
        .filter_map(|(name, used)| used.then_some(name))
        .collect()
}

/// Destinations in the output for people.
const BUSIEST: usize = 5;

/// File with the commit of the module, which the module writes.
const REVISION_FILE: &str = "/etc/chatmail-version";

/// Show the state of the relay. Exits with status 1 if something needs attention.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Status {
    domain: String,
    versions: Versions,
    units: Vec<Unit>,
    missing_ports: Vec<u16>,
    connections: Connections,
    federation: Federation,
    /// The figures that cannot be had are null; `attention` says why.
    queue: Option<Queue>,
    /// Deliveries to other domains.
    destinations: Option<Report>,
    accounts: Option<Accounts>,
    /// Days until the certificate on port 993 expires.
    certificate_days: Option<i64>,
    last_expiry: Option<String>,
    pending_notifications: Option<usize>,
    disk_free: Option<u64>,
    registration: Option<String>,
    /// Problems that need attention.
    attention: Vec<String>,
}

#[derive(Serialize)]
struct Versions {
    chatmail: &'static str,
    /// Commit of the module.
    revision: Option<String>,
    postfix: Option<String>,
    dovecot: Option<String>,
}

#[derive(Serialize)]
struct Connections {
    imap: usize,
    submission: usize,
    port_25: usize,
    imap_processes: usize,
}

/// Ways of mail to and from other servers.
#[derive(Serialize)]
struct Federation {
    /// Number of entries of `federation.allow`; null if mail is exchanged with everybody.
    allow: Option<usize>,
    /// Number of entries of `federation.block`.
    block: usize,
    out: Vec<&'static str>,
    r#in: Vec<&'static str>,
}

#[derive(Default, Serialize)]
struct Queue {
    messages: usize,
    deferred: usize,
}

#[derive(Default, Serialize)]
struct Accounts {
    total: usize,
    active_1_day: usize,
    active_30_days: usize,
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    let status = look(settings);
    let text = if cli.json {
        serde_json::to_string_pretty(&status)? + "\n"
    } else {
        status.text()
    };
    Ok(crate::Answer::new(text, status.attention.is_empty()))
}

/// What cannot be read needs attention; the rest of the status does not depend on it.
#[derive(Default)]
struct Attention(Vec<String>);

impl Attention {
    fn unless<T>(&mut self, result: anyhow::Result<T>) -> Option<T> {
        result.map_err(|error| self.0.push(format!("{error:#}"))).ok()
    }
}

fn look(settings: &Settings) -> Status {
    let mut attention = Attention::default();
    let units = attention.unless(system::units()).unwrap_or_default();
    attention
        .0
        .extend(units.iter().filter(|unit| !unit.is_well()).map(|unit| {
            format!(
                "{} is {}; see `journalctl -u {}`",
                unit.name, unit.state, unit.name
            )
        }));
    let sockets = attention.unless(Sockets::read());
    let missing_ports: Vec<_> = ports(settings)
        .filter(|port| {
            sockets
                .as_ref()
                .is_some_and(|sockets| !sockets.listening.contains(port))
        })
        .collect();
    let sockets = sockets.unwrap_or_default();
    attention.0.extend(
        missing_ports
            .iter()
            .map(|port| format!("nothing is listening on port {port}")),
    );
    let messages = attention.unless(queue::messages());
    let waiting = messages.as_deref().map(queue::summary).unwrap_or_default();
    let queue = messages.map(|messages| {
        let deferred = messages.iter().filter(|message| message.queue_name == "deferred");
        Queue {
            messages: messages.len(),
            deferred: deferred.count(),
        }
    });
    let destinations = attention.unless(Report::read(settings, &waiting));
    let resources = Resources::read(&settings.mailboxes.directory);
    if let Some(exhausted) = resources.exhausted(&settings.accounts) {
        attention.0.push(exhausted.to_string());
    }
    if resources.disk_free.is_none() {
        attention.0.push(format!(
            "cannot read the free space of {}",
            settings.mailboxes.directory.display()
        ));
    }
    let registration = attention.unless(registration(settings, &resources));
    let accounts = accounts(settings, &mut attention);
    let certificate_days = attention.unless(certificate(settings)).map(|presented| {
        attention.0.extend(presented.problems);
        presented.days
    });
    let pending_notifications = attention.unless(pending(&settings.push.queue_dir));
    Status {
        domain: settings.domain.clone(),
        versions: Versions {
            chatmail: env!("CARGO_PKG_VERSION"),
            revision: fs::read_to_string(REVISION_FILE)
                .ok()
                .map(|text| text.trim().to_owned()),
            postfix: system::version("postconf", &["-h", "mail_version"]),
            dovecot: system::version("dovecot", &["--version"]),
        },
        missing_ports,
        connections: Connections {
            imap: sockets.connections(&[143, 993]),
            submission: sockets.connections(&[465, 587]),
            port_25: sockets.connections(&[25]),
            imap_processes: system::processes("imap"),
        },
        federation: Federation {
            allow: settings.federation.allow.as_ref().map(Vec::len),
            block: settings.federation.block.len(),
            out: ways(settings.federation.https.send, settings.federation.smtp.send),
            r#in: ways(
                settings.federation.https.receive,
                settings.federation.smtp.receive,
            ),
        },
        queue,
        destinations,
        accounts,
        certificate_days,
        last_expiry: units
            .iter()
            .find(|unit| unit.name == EXPIRE)
            .and_then(|unit| unit.ended)
            .map(minute),
        pending_notifications,
        disk_free: resources.disk_free,
        registration,
        units,
        attention: attention.0,
    }
}

/// Number of notifications that wait for the notification server.
fn pending(folder: &Path) -> anyhow::Result<usize> {
    let files = fs::read_dir(folder)
        .with_context(|| format!("cannot list the pending notifications in {}", folder.display()))?;
    Ok(files.count())
}

/// Who can get an account, and how many invitations and accounts are left.
fn registration(settings: &Settings, resources: &Resources) -> anyhow::Result<String> {
    let register = Register::new(&settings.registration);
    let mode = settings.registration.mode;
    if let Some(file) = settings.registration.closed_by() {
        return Ok(format!("closed, because {} exists", file.display()));
    }
    if mode == RegistrationMode::Closed {
        return Ok("closed by services.chatmail.registration.mode".to_owned());
    }
    if let Some(exhausted) = resources.exhausted(&settings.accounts) {
        return Ok(format!("paused: {exhausted}"));
    }
    let folder = settings.registration.directory.display();
    let now = chatmail_core::unix_seconds(SystemTime::now());
    let mut text = "open".to_owned();
    if mode == RegistrationMode::Invitation {
        "by invitation".clone_into(&mut text);
        let all = register
            .list()
            .with_context(|| format!("cannot list the invitations in {folder}"))?;
        let left: Vec<u32> = all
            .iter()
            .map(|(_, invitation)| invitation.left(now))
            .filter(|&left| left > 0)
            .collect();
        let accounts: u64 = left.iter().copied().map(u64::from).sum();
        let _ = write!(
            text,
            ": {} valid invitation(s) for {accounts} account(s)",
            left.len()
        );
    }
    if let Some(max) = settings.registration.max_per_hour {
        let created = register
            .created_within_an_hour(now)
            .with_context(|| format!("cannot read the number of new accounts in {folder}"))?;
        let _ = write!(text, ", {created} of {max} account(s) in the last hour");
    }
    Ok(text)
}

fn accounts(settings: &Settings, attention: &mut Attention) -> Option<Accounts> {
    let store = MailStore::new(&settings.mailboxes.directory);
    let dir = store.dir().display();
    let mut accounts = Accounts::default();
    let now = SystemTime::now();
    let addresses = store
        .addresses()
        .with_context(|| format!("cannot list the mail store {dir}"));
    let mut unreadable = Vec::new();
    for address in attention.unless(addresses)? {
        let login = match store.account(&address).last_login() {
            Ok(Some(login)) => login,
            Ok(None) => continue,
            Err(error) => {
                unreadable.push(format!("{address}: {error}"));
                continue;
            }
        };
        // Only the day is stored: a login of yesterday may be less than a day ago.
        let within = |days: u64| {
            let age = now.duration_since(login).unwrap_or_default();
            usize::from(age < Duration::from_secs((days + 1) * 24 * 60 * 60))
        };
        accounts.total += 1;
        accounts.active_1_day += within(1);
        accounts.active_30_days += within(30);
    }
    if let Some(first) = unreadable.first() {
        let number = unreadable.len();
        attention
            .0
            .push(format!("cannot read {number} account(s), one of them {first}"));
    }
    Some(accounts)
}

/// The certificate on port 993.
struct Certificate {
    days: i64,
    problems: Vec<String>,
}

/// Days until the certificate in use expires, which is not always the one on disk.
fn certificate(settings: &Settings) -> anyhow::Result<Certificate> {
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, 993));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let present = async {
        let stream = Dial::Here.connect(address).await?;
        tls::handshake(stream, &settings.domain, None).await
    };
    let presented = runtime
        .block_on(present)
        .context("cannot get the certificate from port 993")?;
    let days = presented.days();
    let mut problems = Vec::new();
    if days < tls::RENEWED_DAYS {
        problems.push(format!("the certificate expires in {days} day(s)"));
    }
    if let Some(reason) = presented
        .distrust
        .filter(|_| settings.tls.mode != TlsMode::SelfSigned)
    {
        problems.push(format!("clients do not trust the certificate: {reason}"));
    }
    Ok(Certificate { days, problems })
}

impl Federation {
    /// Rules about domains; none if there are none.
    fn rules(&self) -> Option<String> {
        let allow = self
            .allow
            .map(|number| format!("mail only with {number} domain(s)"));
        let block = (self.block > 0).then(|| format!("{} domain(s) blocked", self.block));
        let rules: Vec<_> = allow.into_iter().chain(block).collect();
        (!rules.is_empty()).then(|| rules.join(", "))
    }
}

impl Status {
    fn text(&self) -> String {
        let mut text = String::new();
        let unknown = || "unknown".to_owned();
        let mut line = |name: &str, value: String| text.push_str(&entry(name, &value));
        line("domain", self.domain.clone());
        line(
            "versions",
            format!(
                "chatmail {}{}, Postfix {}, Dovecot {}",
                self.versions.chatmail,
                self.versions
                    .revision
                    .as_ref()
                    .map_or_else(String::new, |revision| format!(" ({revision})")),
                self.versions.postfix.clone().unwrap_or_else(unknown),
                self.versions.dovecot.clone().unwrap_or_else(unknown)
            ),
        );
        let well = self.units.iter().filter(|unit| unit.is_well()).count();
        line(
            "units",
            if self.units.is_empty() {
                unknown()
            } else {
                format!("{well} of {} well", self.units.len())
            },
        );
        let connections = &self.connections;
        line(
            "connections",
            format!(
                "{} IMAP ({} imap processes), {} submission, {} on port 25",
                connections.imap, connections.imap_processes, connections.submission, connections.port_25
            ),
        );
        let federation = &self.federation;
        line(
            "federation",
            format!(
                "out over {}, in over {}",
                federation.out.join(" and "),
                federation.r#in.join(" and ")
            ),
        );
        if let Some(rules) = federation.rules() {
            line("rules", rules);
        }
        line(
            "queue",
            self.queue.as_ref().map_or_else(unknown, |queue| {
                format!("{} message(s), {} deferred", queue.messages, queue.deferred)
            }),
        );
        line(
            "accounts",
            self.accounts.as_ref().map_or_else(unknown, |accounts| {
                format!(
                    "{}, used in the last day: {}, in 30 days: {}",
                    accounts.total, accounts.active_1_day, accounts.active_30_days
                )
            }),
        );
        line("registration", self.registration.clone().unwrap_or_else(unknown));
        line(
            "certificate",
            self.certificate_days
                .map_or_else(unknown, |days| format!("valid for {days} days")),
        );
        line(
            "last expiry",
            self.last_expiry
                .clone()
                .unwrap_or_else(|| "not since the system started".to_owned()),
        );
        let pending = self
            .pending_notifications
            .map(|number| format!("{number} pending"));
        line("notifications", pending.unwrap_or_else(unknown));
        line(
            "disk",
            self.disk_free
                .map_or_else(unknown, |bytes| format!("{} free", size(bytes))),
        );
        let destinations = self.destinations.as_ref();
        line("destinations", destinations.map_or_else(unknown, Report::extent));
        if let Some(report) = destinations.filter(|report| !report.destinations.is_empty()) {
            text.push_str(&report.table(BUSIEST));
        }
        for reason in &self.attention {
            text.push_str(&entry("ATTENTION", reason));
        }
        if self.attention.is_empty() {
            text.push_str("All is well.\n");
        }
        text
    }
}

#[cfg(test)]
mod tests;
