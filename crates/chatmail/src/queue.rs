//! `chatmail queue`: the mail queue, by Postfix's own programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::process::Command as Process;

use anyhow::{Context as _, ensure};
use chatmail_core::postqueue::{self, Message};
use serde::Serialize;
use time::OffsetDateTime;

use crate::program;

/// Maximum length of a printed reason; other servers choose the text.
const MAX_REASON: usize = 200;

/// List, show, retry and drop messages in the mail queue.
#[derive(clap::Args)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Print the list as JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    /// List all messages (default).
    List {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Count recipients by destination and reason.
    Summary {
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Show the envelope and the header of a message.
    Show {
        /// Queue ID.
        id: String,
        /// Print JSON.
        #[arg(long)]
        json: bool,
    },
    /// Retry the delivery of one message, or of all.
    Retry {
        /// Queue ID.
        id: Option<String>,
    },
    /// Remove a message without notifying its sender.
    Drop {
        /// Queue ID.
        id: String,
    },
}

#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Destination {
    pub(crate) domain: String,
    pub(crate) recipients: usize,
    pub(crate) reasons: BTreeMap<String, usize>,
}

pub(crate) fn run(cli: &Cli) -> anyhow::Result<crate::Answer> {
    let text = match cli.command.as_ref().unwrap_or(&Command::List { json: cli.json }) {
        Command::List { json: true } => {
            return Ok((serde_json::to_string_pretty(&messages()?)? + "\n").into());
        }
        Command::List { json: false } => list(&messages()?),
        Command::Summary { json: true } => {
            return Ok((serde_json::to_string_pretty(&summary(&messages()?))? + "\n").into());
        }
        Command::Summary { json: false } => summary_text(&summary(&messages()?)),
        Command::Show { id, json } => {
            let text = postfix("postcat", &["-q", "-e", "-h", known(id)?])?;
            // Lines of a message are never broken.
            return Ok(if *json { show_json(&text)? } else { text }.into());
        }
        Command::Retry { id: Some(id) } => {
            postfix("postqueue", &["-i", known(id)?])?;
            retried(Some(id))
        }
        Command::Retry { id: None } => {
            postfix("postqueue", &["-f"])?;
            retried(None)
        }
        Command::Drop { id } => {
            postfix("postsuper", &["-d", known(id)?])?;
            dropped(id)
        }
    };
    Ok(crate::Answer::folded(&text))
}

fn retried(id: Option<&str>) -> String {
    format!("Postfix retries {} now.\n", id.unwrap_or("all messages"))
}

fn dropped(id: &str) -> String {
    format!("{id} was dropped. Its sender is not notified.\n")
}

/// The lines of postcat(1) by its sections.
fn show_json(text: &str) -> anyhow::Result<String> {
    let mut message = Shown::default();
    let mut section = None;
    for line in text.lines() {
        if let Some(title) = line.strip_prefix("*** ") {
            section = match title.split_whitespace().next() {
                Some("ENVELOPE") => Some(&mut message.envelope),
                Some("MESSAGE" | "HEADER") if !title.contains("FILE END") => Some(&mut message.header),
                _ => None,
            };
        } else if let Some(lines) = &mut section {
            lines.push(line.to_owned());
        }
    }
    Ok(serde_json::to_string_pretty(&message)? + "\n")
}

/// A message without its body.
#[derive(Debug, Default, Serialize)]
struct Shown {
    envelope: Vec<String>,
    header: Vec<String>,
}

/// The messages in the queue.
pub(crate) fn messages() -> anyhow::Result<Vec<Message>> {
    postqueue::parse(&postfix("postqueue", &["-j"])?).context("cannot parse the output of postqueue -j")
}

/// Checks that a message exists. To Postfix, the ID `ALL` means all messages, which must not happen by accident.
fn known(id: &str) -> anyhow::Result<&str> {
    let there = messages()?.iter().any(|message| message.queue_id == id);
    ensure!(
        there,
        "there is no message {id:?} in the queue; `chatmail queue` lists them"
    );
    Ok(id)
}

fn postfix(program: &str, arguments: &[&str]) -> anyhow::Result<String> {
    let output = program::output(Process::new(program).args(arguments))?;
    ensure!(
        output.status.success(),
        "{program} failed with {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr).trim_end()
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn list(messages: &[Message]) -> String {
    let mut text = String::new();
    for message in messages {
        let arrived =
            OffsetDateTime::from_unix_timestamp(message.arrival_time).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let sender = if message.sender.is_empty() {
            "<>"
        } else {
            &message.sender
        };
        let _ = writeln!(
            text,
            "{}  {}  {} {:02}:{:02} UTC  {} bytes  from {sender}",
            message.queue_id,
            message.queue_name,
            arrived.date(),
            arrived.hour(),
            arrived.minute(),
            message.message_size
        );
        for recipient in &message.recipients {
            let _ = writeln!(text, "    to {}", recipient.address);
            if let Some(reason) = &recipient.delay_reason {
                let _ = writeln!(text, "       {}", shortened(reason));
            }
        }
    }
    let _ = writeln!(text, "{} message(s) in the queue", messages.len());
    text
}

fn shortened(reason: &str) -> String {
    let short: String = reason
        .chars()
        .filter(|c| !c.is_control())
        .take(MAX_REASON)
        .collect();
    if short.len() < reason.len() {
        short + "…"
    } else {
        short
    }
}

/// Destinations with waiting recipients, those with the most recipients first.
pub(crate) fn summary(messages: &[Message]) -> Vec<Destination> {
    let mut found: BTreeMap<String, BTreeMap<String, usize>> = BTreeMap::new();
    for recipient in messages.iter().flat_map(|message| &message.recipients) {
        let domain = recipient
            .address
            .rsplit('@')
            .next()
            .unwrap_or_default()
            .to_ascii_lowercase();
        let reason = recipient
            .delay_reason
            .as_deref()
            .map_or("under way".to_owned(), shortened);
        *found.entry(domain).or_default().entry(reason).or_default() += 1;
    }
    let mut destinations: Vec<_> = found
        .into_iter()
        .map(|(domain, reasons)| Destination {
            domain,
            recipients: reasons.values().sum(),
            reasons,
        })
        .collect();
    destinations.sort_by_key(|destination| std::cmp::Reverse(destination.recipients));
    destinations
}

fn summary_text(destinations: &[Destination]) -> String {
    let mut text = String::new();
    for destination in destinations {
        let _ = writeln!(
            text,
            "{}: {} recipient(s)",
            destination.domain, destination.recipients
        );
        for (reason, count) in &destination.reasons {
            let _ = writeln!(text, "  {count:6}  {reason}");
        }
    }
    if destinations.is_empty() {
        text.push_str("Nothing is waiting.\n");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUEUE: &str = concat!(
        r#"{"queue_name": "deferred", "queue_id": "4bQ1", "arrival_time": 1760000000, "message_size": 700, "forced_expire": false, "sender": "a@x.test", "recipients": [{"address": "b@Y.test", "delay_reason": "timed\u001b out"}, {"address": "c@y.test", "delay_reason": "refused"}]}"#,
        "\n",
        r#"{"queue_name": "active", "queue_id": "4bQ2", "arrival_time": 1760000000, "message_size": 8, "forced_expire": false, "sender": "", "recipients": [{"address": "b@z.test"}]}"#,
        "\n"
    );

    #[test]
    fn the_summary_counts_by_destination_and_reason() {
        let text = summary_text(&summary(&postqueue::parse(QUEUE).unwrap()));
        assert_eq!(
            text,
            "y.test: 2 recipient(s)\n       1  refused\n       1  timed out…\nz.test: 1 recipient(s)\n       1  under way\n"
        );
        assert_eq!(
            summary_text(&summary(&postqueue::parse("").unwrap())),
            "Nothing is waiting.\n"
        );
    }

    #[test]
    fn the_list_shows_no_control_characters_of_other_servers() {
        let text = list(&postqueue::parse(QUEUE).unwrap());
        assert!(text.starts_with("4bQ1  deferred  2025-10-09 08:53 UTC  700 bytes  from a@x.test\n    to b@Y.test\n       timed out"), "{text}");
        assert!(
            text.contains("8 bytes  from <>\n    to b@z.test\n2 message(s) in the queue\n"),
            "{text}"
        );
        assert!(postqueue::parse("queue is down\n").is_err());
    }

    #[test]
    fn the_output_fits_80_columns() {
        use crate::answer::{folded, human};
        let reason = "host mx.down.example[192.0.2.25] said: 450 4.7.1 <someone@down.example>: Recipient address rejected: Greylisted, see https://greylisting.example/help (in reply to RCPT TO command)";
        let long = format!(
            r#"{{"queue_name": "deferred", "queue_id": "4dGm1L3ncVz9sXQ", "arrival_time": 1760000000, "message_size": 31457280, "forced_expire": false, "sender": "{}@chat.example.org", "recipients": [{{"address": "{}@down.example", "delay_reason": "{reason}"}}]}}"#,
            "s".repeat(40),
            "r".repeat(60)
        );
        let messages = postqueue::parse(&format!("{QUEUE}{long}\n")).unwrap();
        human::check("queue list", &folded(&list(&messages)));
        let empty = summary_text(&summary(&[]));
        human::check(
            "queue summary",
            &folded(&(summary_text(&summary(&messages)) + "\n" + &empty)),
        );
        let id = &messages[2].queue_id;
        human::check("queue retry", &folded(&(retried(Some(id)) + &retried(None))));
        human::check("queue drop", &folded(&dropped(id)));
    }

    #[test]
    fn a_message_is_shown_by_its_sections() {
        let text = "*** ENVELOPE RECORDS deferred/4bQ1 ***\nmessage_size: 700\nsender: a@x.test\n\
                    *** MESSAGE CONTENTS deferred/4bQ1 ***\nFrom: a@x.test\nSubject: [...]\n\
                    *** HEADER EXTRACTED deferred/4bQ1 ***\n*** MESSAGE FILE END deferred/4bQ1 ***\n";
        let shown: serde_json::Value = serde_json::from_str(&show_json(text).unwrap()).unwrap();
        assert_eq!(
            shown,
            serde_json::json!({
                "envelope": ["message_size: 700", "sender: a@x.test"],
                "header": ["From: a@x.test", "Subject: [...]"],
            })
        );
        crate::answer::human::check("queue show", text);
    }
}
