//! `chatmail migrate`: converts the settings of a reference relay to NixOS options, and moves its state.

mod ini;
mod nix;
mod options;
mod transfer;

use std::fmt::Write as _;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};
use chatmail_core::Settings;
use serde_json::json;

use self::options::Migrated;
use crate::answer::wrapped;
use crate::dns::beside;

/// Larger than any `chatmail.ini`.
const MAX_BYTES: u64 = 1 << 20;

/// Print the NixOS options that correspond to a chatmail.ini of the reference relay.
///
/// The output is a NixOS module. Its comments name the settings that have no equivalent, with the reason, and those that
/// are left out because they have the default of the reference. Exits with 1 if a setting is unknown.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct Cli {
    #[command(subcommand)]
    command: Option<Command>,
    /// Settings file of the reference relay, versions 1.0 to 1.12.
    #[arg(value_name = "chatmail.ini", required = true)]
    file: Option<PathBuf>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(clap::Subcommand)]
enum Command {
    Import(transfer::Import),
    Export(transfer::Export),
}

/// Only moving state needs a relay on this host, whose settings `settings` loads.
pub(crate) fn run(
    cli: &Cli,
    settings: impl FnOnce() -> anyhow::Result<Settings>,
) -> anyhow::Result<crate::Answer> {
    match (&cli.command, &cli.file) {
        (Some(Command::Import(cli)), _) => Ok(folded(transfer::import(cli, &settings()?)?)),
        (Some(Command::Export(cli)), _) => Ok(folded(transfer::export(cli, &settings()?)?)),
        (None, Some(file)) => convert(file, cli.json),
        (None, None) => anyhow::bail!("name the chatmail.ini of the reference relay"),
    }
}

fn folded(text: String) -> crate::Answer {
    crate::Answer::folded(&text)
}

fn convert(file: &Path, json: bool) -> anyhow::Result<crate::Answer> {
    let text = read(file).with_context(|| format!("cannot read {}", file.display()))?;
    let settings = ini::parse(&text).with_context(|| format!("cannot parse {}", file.display()))?;
    let migrated =
        options::migrate(&settings).with_context(|| format!("cannot migrate {}", file.display()))?;
    let text = if json {
        as_json(&migrated)?
    } else {
        as_module(&migrated)
    };
    Ok(crate::Answer::new(text, migrated.unknown.is_empty()))
}

fn read(file: &Path) -> anyhow::Result<String> {
    let mut text = String::new();
    // Pipes and devices have no size.
    let mut limited = std::fs::File::open(file)?.take(MAX_BYTES + 1);
    limited.read_to_string(&mut text)?;
    ensure!(
        limited.limit() > 0,
        "the file is too large; the maximum is {MAX_BYTES} bytes"
    );
    Ok(text)
}

fn as_json(migrated: &Migrated) -> anyhow::Result<String> {
    let options: serde_json::Map<String, serde_json::Value> = migrated
        .options
        .iter()
        .map(|option| (option.name.clone(), json!(option.value)))
        .collect();
    let without: serde_json::Map<String, serde_json::Value> = migrated
        .without
        .iter()
        .map(|(key, reason)| (key.clone(), json!(reason)))
        .collect();
    let value = json!({
        "options": options,
        "without_equivalent": without,
        "defaults": migrated.defaults,
        "unknown": migrated.unknown,
    });
    Ok(serde_json::to_string_pretty(&value)? + "\n")
}

/// A comment of as many lines as it needs.
fn comment(mark: &str, text: &str) -> String {
    let indent = mark.chars().count();
    let broken = format!("\n{mark}");
    format!(
        "{mark}{}\n",
        wrapped(text, indent).replace(&format!("\n{}", " ".repeat(indent)), &broken)
    )
}

/// A NixOS module with one option per line.
fn as_module(migrated: &Migrated) -> String {
    let mut text = "{\n".to_owned();
    for option in &migrated.options {
        let value = nix::expression(&option.value);
        if let Some(note) = option.note {
            text.push_str(&comment("  # ", note));
        }
        let name = format!("  {} =", option.name);
        text.push_str(&beside(&format!("{name} "), &format!("{value};"), 4));
    }
    text.push_str("}\n");
    let mut section = |title: &str, lines: Vec<String>| {
        if !lines.is_empty() {
            let _ = writeln!(text, "\n# {title}:");
            for line in lines {
                text.push_str(&comment("#   ", &line));
            }
        }
    };
    let without = migrated.without.iter();
    section(
        "Settings without an equivalent",
        without.map(|(key, reason)| format!("{key}: {reason}")).collect(),
    );
    section(
        "Left out, because they have the default value of the reference",
        migrated.defaults.clone(),
    );
    section(
        "Not known to the reference, versions 1.0 to 1.12",
        migrated.unknown.clone(),
    );
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn module(text: &str) -> String {
        as_module(&options::migrate(&ini::parse(text).unwrap()).unwrap())
    }

    #[test]
    fn every_setting_of_the_reference() {
        crate::answer::human::check(
            "migrate",
            &module(concat!(
                include_str!("../testdata/chatmail.ini"),
                "passthrough_senders =\n",
                "passthrough_recipients = xstore@example.org echo@chat.example.org\n",
                "imap_rawlog = false\n",
                "filtermail_smtp_port = 10080\n",
                "filtermail_smtp_port_incoming = 10081\n",
                "filtermail_http_port_incoming = 10082\n",
                "filtermail_lmtp_port_transport = 10083\n",
                "postfix_reinject_port = 10025\n",
                "postfix_reinject_port_incoming = 10026\n",
                "turn_socket_path = /run/chatmail-turn/turn.socket\n",
                "passdb_path = /home/vmail/passdb.sqlite\n",
                "favourite_colour = blue\n",
            )),
        );
    }

    #[test]
    fn a_file_as_the_reference_writes_it_needs_the_domain_only() {
        assert_eq!(
            module(
                "[params]\n# comment\nmail_domain = chat.example.org\n\n#max_mailbox_size = 1G\nmax_mailbox_size = 500M\n\
                 privacy_postal =\n"
            ),
            "{\n  services.chatmail.enable = true;\n  services.chatmail.domain = \"chat.example.org\";\n}\n\n\
             # Left out, because they have the default value of the reference:\n#   max_mailbox_size\n#   privacy_postal\n"
        );
    }

    #[test]
    fn a_file_without_an_end_is_not_read_to_its_end() {
        let error = read(Path::new("/dev/zero")).unwrap_err();
        assert!(error.to_string().contains("too large"), "{error}");
    }

    #[test]
    fn errors_name_the_line_and_what_is_allowed() {
        let error = |text: &str| {
            let settings = match ini::parse(text) {
                Ok(settings) => settings,
                Err(error) => return error.to_string(),
            };
            format!("{:#}", options::migrate(&settings).err().unwrap())
        };
        let errors = [
            "mail_domain = a.test\n",
            "[params]\nmail_domain\n",
            "[params]\nmail_domain = a.test\nmail_domain = b.test\n",
            "[params]\n",
            "[params]\nmail_domain = a.test\nmax_message_size = 30M\n",
            "[params]\nmail_domain = a.test\nmax_mailbox_size = lots\n",
            "[params]\nmail_domain = a.test\nmax_mailbox_size = 99999999999G\n",
            "[params]\nmail_domain = a.test\nmax_load_1m = nan\n",
            "[params]\nmail_domain = a.test\ntls_external_cert_and_key = /one\n",
        ]
        .map(error);
        insta::assert_snapshot!(errors.join("\n"));
    }
}
