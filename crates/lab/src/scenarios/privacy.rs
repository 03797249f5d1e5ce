//! Logs contain neither accounts nor client addresses, except for those that docs/logs.md lists.

use std::collections::BTreeSet;
use std::fs;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::addresses::{address_in, in_word};
use super::{Context, accounts, bounce, delivery, destinations, kill, outside, provoke, push, turn};
use crate::harness::mailboxes;

const RELAYS: [&str; 3] = ["a", "b", "c"];
/// Scenarios of the crate `mailtest` that cause daemons to log errors.
const OF_CLIENTS: [&str; 9] = [
    "cleartext-submitted",
    "forged-from",
    "envelope-sender-of-another-account",
    "rate-limit",
    "device-tokens",
    "port-25-needs-tls",
    "client-ports-need-tls-1.3",
    "web-site",
    "web-new-address",
];
/// The relay whose host has another web site, and the file to which nginx logs requests for that site.
const OWN_SITE: (&str, &str) = ("c", "/var/log/nginx/access.log:");
/// File in a machine with the strings to search for.
const NEEDLES: &str = "var/lib/lab-needles";
/// Maximum number of findings in an error.
const QUOTED: usize = 20;

/// Lines that may name accounts or clients: the program, and a text in the line. `docs/logs.md` explains them.
const EXCEPTIONS: [(&str, &str); 6] = [
    ("doveauth", "Created address: "),
    ("dovecot", "quota-expire: removed "),
    ("postfix", "NOQUEUE: reject: "),
    ("postfix", "timeout after DATA"),
    ("postfix", "limit exceeded: "),
    ("postfix", "statistics: max "),
];

/// Exceptions that the traffic must have caused, which proves that the daemons log.
const CAUSED: [&str; 2] = ["Created address: ", "NOQUEUE: reject: "];

/// Finds files; it leaves out those that contain addresses because they hold mail or settings, not logs.
const FILES: &str = "find /var /run /tmp -xdev -type f \
    -not -path '/var/lib/postfix/queue/*' -not -path '/var/spool/postfix/*' \
    -not -path '/var/lib/chatmail-metadata/pending_notifications/*' \
    -not -path '/var/lib/chatmail-rawlog/*' \
    -not -path '/var/log/journal/*' -not -path '/run/log/journal/*' \
    -not -path '/var/lib/postfix/conf/*' -not -path '/var/lib/lab-*'";

/// Accounts and clients that the logs of a relay could name.
struct Names {
    /// The part of all accounts after the `@`.
    domain: String,
    /// Local parts of the accounts.
    local: BTreeSet<String>,
    /// Addresses of clients.
    clients: Vec<String>,
}

impl Names {
    /// Returns the first account or client that a line names.
    fn named(&self, line: &str) -> Option<String> {
        let lower = line.to_ascii_lowercase();
        let word = |word: &str| {
            let word = word.trim_end_matches('.');
            self.local.contains(word) || self.clients.iter().any(|client| client == word)
        };
        if let Some(found) = lower.split(|c| !in_word(c)).find(|part| word(part)) {
            return Some(found.to_owned());
        }
        address_in(&lower, &self.domain)
    }

    /// Returns fixed strings, at least one of which occurs in every line that names an account or client.
    fn needles(&self) -> String {
        let fixed = self.local.iter().chain(&self.clients).cloned();
        let mut needles: Vec<String> = fixed.collect();
        needles.push(format!("@{}", self.domain));
        needles.join("\n")
    }
}

/// Returns the exception that matches a line of the journal.
fn exception(program: &str, message: &str) -> Option<&'static str> {
    EXCEPTIONS
        .iter()
        .find(|(writer, mark)| program.starts_with(writer) && message.contains(mark))
        .map(|(_, mark)| *mark)
}

async fn names(context: &Context, relay: &str) -> anyhow::Result<Names> {
    let domain = context.peer(relay)?.domain;
    let listed = context
        .run(relay, &["ls", &mailboxes::of_domain(&domain)])
        .await?;
    let local: BTreeSet<String> = listed
        .lines()
        .filter_map(|address| Some(address.split_once('@')?.0.to_owned()))
        .collect();
    ensure!(!local.is_empty(), "relay {relay} has no accounts");
    Ok(Names {
        domain,
        local,
        // All clients of the lab except those of calls connect from the host.
        clients: vec![context.topology.host.to_string()],
    })
}

/// Makes the mistakes of users and outside clients on one relay.
async fn mistakes(context: &Context, relay: &str) -> anyhow::Result<()> {
    let account = context.account(relay).await?;
    let mut stranger = account.peer.exchange("stranger.example").await?;
    stranger.command("MAIL FROM:<someone@stranger.example>").await?;
    let refused = stranger.command("RCPT TO:<somebody@elsewhere.example>").await?;
    refused.expect_start("554 5.7.1 ")?;
    stranger.command("GET / HTTP/1.1").await?;
    // The client disconnects in the middle of a message.
    let mut smtp = account.smtp().await?;
    smtp.command(&format!("MAIL FROM:<{}>", account.address)).await?;
    smtp.command(&format!("RCPT TO:<{}>", account.address)).await?;
    smtp.command("DATA").await?.expect(354)?;
    drop(smtp);
    // Only the relay may set this field.
    let mut imap = account.imap().await?;
    imap.command("SETMETADATA \"\" (/shared/vendor/deltachat/turn \"x\")")
        .await?;
    imap.command("SELECT \"no such folder\"").await?;
    provoke::errors(context, relay).await
}

/// Runs a scenario of the crate `mailtest`.
async fn of_clients(context: &Context, name: &str) -> anyhow::Result<()> {
    let all = mailtest::scenarios::all::<Context>();
    let scenario = all.iter().find(|scenario| scenario.name == name);
    (scenario.context(name.to_owned())?.play)(context).await
}

/// Runs scenarios whose errors daemons log, one after the other so that they do not affect each other.
async fn failures(context: &Context) -> anyhow::Result<()> {
    for name in OF_CLIENTS {
        of_clients(context, name).await?;
    }
    outside::cleartext(context).await?;
    outside::unsigned(context).await?;
    outside::delivered(context).await?;
    bounce::unknown_user(context).await?;
    delivery::undeliverable(context).await?;
    delivery::names_verified(context).await?;
    destinations::private_addresses(context).await?;
    destinations::mail_of_the_host(context).await?;
    push::message_wakes_devices(context).await?;
    turn::relays(context).await?;
    turn::credentials(context).await
}

/// Causes more log lines than the other scenarios do. This mostly waits: Postfix and Dovecot delay their responses to
/// clients that make mistakes.
async fn traffic(context: &Context) -> anyhow::Result<()> {
    let [a, b, c] = RELAYS.map(|relay| mistakes(context, relay));
    tokio::try_join!(
        a,
        b,
        c,
        of_clients(context, "wrong-password-refused"),
        accounts::short_password(context),
        accounts::foreign_domain(context),
        failures(context),
    )?;
    kill::doveauth(context).await?;
    kill::dictionaries(context).await
}

/// Returns lines of the journal since boot that name accounts or clients; adds the exceptions among them to `seen`.
async fn journal(
    context: &Context,
    relay: &str,
    names: &Names,
    seen: &mut BTreeSet<&'static str>,
) -> anyhow::Result<Vec<String>> {
    // All fields of each line; grep reduces them to few enough to copy out of the machine.
    let script = "journalctl --sync; journalctl --boot --quiet --all --output=json | tee >(wc -l >&2) \
        | grep -F -i -f \"/$0\" || true";
    let output = context
        .machines()
        .exec(relay, &["bash", "-c", script, NEEDLES])
        .await?;
    let lines: u64 = String::from_utf8_lossy(&output.stderr).trim().parse()?;
    ensure!(lines > 100, "the journal of relay {relay} has {lines} lines");
    let mut found = Vec::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let fields: serde_json::Map<String, Value> = serde_json::from_str(line)?;
        let field = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
        let (program, message) = (field("SYSLOG_IDENTIFIER"), field("MESSAGE"));
        let Some((name, somebody)) = fields
            .iter()
            .find_map(|(name, value)| Some((name, names.named(value.as_str()?)?)))
        else {
            continue;
        };
        match exception(program, message) {
            Some(mark) if name == "MESSAGE" => {
                seen.insert(mark);
            }
            _ => found.push(format!("{name} of {program} names {somebody}: {message}")),
        }
    }
    Ok(found)
}

/// Returns other files that name accounts or clients.
async fn files(context: &Context, relay: &str, names: &Names) -> anyhow::Result<Vec<String>> {
    let script = format!(
        "{FILES} -print0 | tee >(tr -cd '\\0' | wc -c >&2) | xargs -0 grep -s -a -i -F -f \"/$0\" /dev/null || true"
    );
    let output = context
        .machines()
        .exec(relay, &["bash", "-c", &script, NEEDLES])
        .await?;
    let files: u64 = String::from_utf8_lossy(&output.stderr).trim().parse()?;
    ensure!(files > 20, "relay {relay} has {files} files to look into");
    Ok(String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter(|line| relay != OWN_SITE.0 || !line.starts_with(OWN_SITE.1))
        .filter(|line| {
            line.split_once(':')
                .is_some_and(|(_, text)| names.named(text).is_some())
        })
        .map(str::to_owned)
        .collect())
}

pub(super) async fn nobody_named(context: &Context) -> anyhow::Result<()> {
    traffic(context).await?;
    let (mut found, mut seen) = (Vec::new(), BTreeSet::new());
    for relay in RELAYS {
        let names = names(context, relay).await?;
        fs::write(context.machines().root(relay).join(NEEDLES), names.needles())?;
        found.extend(journal(context, relay, &names, &mut seen).await?);
        found.extend(files(context, relay, &names).await?);
    }
    let more = found.len().saturating_sub(QUOTED);
    found.truncate(QUOTED);
    ensure!(
        found.is_empty(),
        "logs name accounts or clients:\n{}\nand {more} more",
        found.join("\n")
    );
    for mark in CAUSED {
        ensure!(seen.contains(mark), "no line with `{mark}`: are there any logs?");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project;

    fn names() -> Names {
        Names {
            domain: "_a.test".to_owned(),
            local: BTreeSet::from(["abcdefghi".to_owned()]),
            clients: vec!["198.18.25.1".to_owned()],
        }
    }

    #[test]
    fn accounts_and_clients_are_found() {
        let named = |line: &str| names().named(line);
        assert_eq!(named("login of Abcdefghi failed"), Some("abcdefghi".to_owned()));
        assert_eq!(
            named("from unknown[198.18.25.1]:4"),
            Some("198.18.25.1".to_owned())
        );
        assert_eq!(named("to=<gone@_a.test>"), Some("gone@_a.test".to_owned()));
    }

    #[test]
    fn others_are_not() {
        for line in [
            "relay=_a.test[198.18.25.11]:25",
            "xabcdefghi abcdefghij",
            "1: message-id=<20260101.1@_a.test>",
            "from=<MAILER-DAEMON@_a.test>",
            "dcaccount:@_a.test",
        ] {
            assert_eq!(names().named(line), None, "{line}");
        }
    }

    #[test]
    fn exceptions_are_told_by_program_and_text() {
        assert_eq!(
            exception("postfix/smtpd", "NOQUEUE: reject: RCPT"),
            Some("NOQUEUE: reject: ")
        );
        assert_eq!(exception("dovecot", "NOQUEUE: reject: RCPT"), None);
    }

    /// Returns the table rows of docs/logs.md that begin with a program and a text in its line, both in code quotes.
    #[test]
    fn exceptions_are_those_in_the_documentation() {
        let text = fs::read_to_string(project::root().join("docs/logs.md")).unwrap();
        let documented: Vec<(&str, &str)> = text
            .lines()
            .filter_map(|line| {
                let (program, rest) = line.strip_prefix("| `")?.split_once("` | `")?;
                Some((program, rest.split_once("` |")?.0))
            })
            .collect();
        assert_eq!(documented, EXCEPTIONS);
    }
}
