//! Maps each setting of the reference to NixOS options.

use anyhow::{Context as _, anyhow, bail, ensure};

use super::ini::Setting;
use super::nix::Value;

/// A NixOS option with its value.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct NixOption {
    /// Full name of the option.
    pub(super) name: String,
    pub(super) value: Value,
    /// A comment for the operator.
    pub(super) note: Option<&'static str>,
}

/// The result of a migration.
#[derive(Debug, Default)]
pub(super) struct Migrated {
    pub(super) options: Vec<NixOption>,
    /// Settings without an equivalent, with the reason.
    pub(super) without: Vec<(String, &'static str)>,
    /// Settings that have the default of the reference.
    pub(super) defaults: Vec<String>,
    /// Settings that no supported version of the reference has.
    pub(super) unknown: Vec<String>,
}

/// How a setting is migrated.
enum Rule {
    /// To an integer.
    Integer(&'static str),
    /// To a number that may have a fraction.
    Float(&'static str),
    /// From a size in megabytes, such as `500M` or `2G`, to bytes.
    Megabytes(&'static str),
    /// To the same string.
    Text(&'static str),
    /// To a boolean.
    Flag(&'static str),
    /// To the options that a function returns for the value.
    Special(fn(&str) -> anyhow::Result<Vec<NixOption>>),
    /// To nothing, for this reason.
    Without(&'static str),
}

const PORT: &str = "the filters and Postfix use Unix sockets; `services.chatmail.filter.transport = \"tcp\"` uses the \
                    default ports of the reference";
const ENCRYPTED_ONLY: &str = "no address is exempt: the relay accepts only encrypted mail";
const WEBSITE: &str = "the relay always has a web site, because invitations lead there; \
                       `services.chatmail.web.root` replaces it by a folder of yours";
const INTERNAL: &str = "the module chooses this path";

/// Every setting of the versions 1.0 to 1.12 and of the development towards 1.13, with its default in the reference, if
/// it has one, and its rule. `mail_domain` and `mailboxes_dir` are handled separately.
const RULES: &[(&str, Option<&str>, Rule)] = &[
    (
        "max_user_send_per_minute",
        Some("60"),
        Rule::Integer("messages.maxPerMinute"),
    ),
    (
        "max_user_send_burst_size",
        Some("10"),
        Rule::Integer("messages.burst"),
    ),
    (
        "max_mailbox_size",
        Some("500M"),
        Rule::Megabytes("mailboxes.quota"),
    ),
    (
        "max_message_size",
        Some("31457280"),
        Rule::Integer("messages.maxSize"),
    ),
    (
        "delete_mails_after",
        Some("20"),
        Rule::Integer("mailboxes.deleteMessagesAfter"),
    ),
    (
        "delete_large_after",
        Some("7"),
        Rule::Integer("mailboxes.deleteLargeMessagesAfter"),
    ),
    (
        "delete_inactive_users_after",
        Some("90"),
        Rule::Integer("mailboxes.deleteInactiveAccountsAfter"),
    ),
    (
        "delete_accounts_after",
        None,
        Rule::Integer("mailboxes.deleteInactiveAccountsAfter"),
    ),
    (
        "username_min_length",
        Some("9"),
        Rule::Integer("accounts.usernameMinLength"),
    ),
    (
        "username_max_length",
        Some("9"),
        Rule::Integer("accounts.usernameMaxLength"),
    ),
    (
        "password_min_length",
        Some("9"),
        Rule::Integer("accounts.passwordMinLength"),
    ),
    ("passthrough_senders", Some(""), Rule::Without(ENCRYPTED_ONLY)),
    ("passthrough_recipients", Some(""), Rule::Without(ENCRYPTED_ONLY)),
    ("max_load_1m", Some("5"), Rule::Float("accounts.maxLoad1m")),
    (
        "min_available_memory",
        Some("200M"),
        Rule::Megabytes("accounts.minMemoryAvailable"),
    ),
    (
        "min_free_disk_space",
        Some("1G"),
        Rule::Megabytes("accounts.minDiskFree"),
    ),
    (
        "max_imap_connections",
        Some("10000"),
        Rule::Integer("connections.imap"),
    ),
    (
        "max_smtp_connections",
        Some("1000"),
        Rule::Integer("connections.smtp"),
    ),
    ("tls_external_cert_and_key", Some(""), Rule::Special(certificate)),
    ("www_folder", Some(""), Rule::Special(website)),
    ("disable_ipv6", Some("false"), Rule::Special(ipv6)),
    ("acme_email", Some(""), Rule::Special(acme)),
    ("iroh_relay", None, Rule::Special(iroh)),
    ("mtail_address", Some(""), Rule::Special(metrics)),
    ("imap_rawlog", Some("false"), Rule::Flag("imap.rawlog")),
    ("imap_compress", Some("false"), Rule::Flag("imap.compress")),
    (
        "privacy_postal",
        Some(""),
        Rule::Text("web.privacy.postalAddress"),
    ),
    ("privacy_mail", Some(""), Rule::Text("adminAddress")),
    (
        "privacy_pdo",
        Some(""),
        Rule::Text("web.privacy.dataProtectionOfficer"),
    ),
    (
        "privacy_supervisor",
        Some(""),
        Rule::Text("web.privacy.supervisoryAuthority"),
    ),
    ("filtermail_smtp_port", Some("10080"), Rule::Without(PORT)),
    (
        "filtermail_smtp_port_incoming",
        Some("10081"),
        Rule::Without(PORT),
    ),
    (
        "filtermail_http_port_incoming",
        Some("10082"),
        Rule::Without(PORT),
    ),
    (
        "filtermail_lmtp_port_transport",
        Some("10083"),
        Rule::Without(PORT),
    ),
    ("postfix_reinject_port", Some("10025"), Rule::Without(PORT)),
    (
        "postfix_reinject_port_incoming",
        Some("10026"),
        Rule::Without(PORT),
    ),
    (
        "turn_socket_path",
        Some("/run/chatmail-turn/turn.socket"),
        Rule::Without(INTERNAL),
    ),
    (
        "passdb_path",
        Some("/home/vmail/passdb.sqlite"),
        Rule::Without("accounts are folders of the mail store; there is no database"),
    ),
];

fn chatmail(name: &str, value: Value) -> NixOption {
    NixOption {
        name: format!("services.chatmail.{name}"),
        value,
        note: None,
    }
}

/// Finds the options for all settings.
///
/// # Errors
///
/// If `mail_domain` is missing, or a value is invalid.
pub(super) fn migrate(settings: &[Setting]) -> anyhow::Result<Migrated> {
    let domain = settings
        .iter()
        .find(|setting| setting.key == "mail_domain")
        .map(|setting| setting.value.as_str())
        .unwrap_or_default();
    ensure!(!domain.is_empty(), "`mail_domain` is missing");
    let mut migrated = Migrated {
        options: vec![
            chatmail("enable", Value::Bool(true)),
            chatmail("domain", Value::Text(domain.to_owned())),
        ],
        ..Migrated::default()
    };
    for setting in settings.iter().filter(|setting| setting.key != "mail_domain") {
        migrate_one(setting, domain, &mut migrated)
            .with_context(|| format!("line {}: `{}`", setting.line, setting.key))?;
    }
    Ok(migrated)
}

fn migrate_one(setting: &Setting, domain: &str, migrated: &mut Migrated) -> anyhow::Result<()> {
    let Setting { key, value, .. } = setting;
    if key == "mailboxes_dir" {
        if *value == format!("/home/vmail/mail/{domain}") {
            migrated.defaults.push(key.clone());
        } else {
            let directory = Value::Text(value.clone());
            migrated.options.push(chatmail("mailboxes.directory", directory));
        }
        return Ok(());
    }
    if key == "www_folder" && value == "disabled" {
        migrated.without.push((key.clone(), WEBSITE));
        return Ok(());
    }
    let Some((_, default, rule)) = RULES.iter().find(|(name, ..)| name == key) else {
        migrated.unknown.push(key.clone());
        return Ok(());
    };
    if default.is_some_and(|default| value.eq_ignore_ascii_case(default)) {
        migrated.defaults.push(key.clone());
        return Ok(());
    }
    let option = match *rule {
        Rule::Integer(name) => chatmail(name, Value::Integer(integer(value)?)),
        Rule::Float(name) => chatmail(name, Value::Float(float(value)?)),
        Rule::Megabytes(name) => chatmail(name, Value::Integer(megabytes(value)?)),
        Rule::Text(name) => chatmail(name, Value::Text(value.clone())),
        Rule::Flag(name) => chatmail(name, Value::Bool(is_true(value))),
        Rule::Special(options) => {
            migrated.options.extend(options(value)?);
            return Ok(());
        }
        Rule::Without(reason) => {
            migrated.without.push((key.clone(), reason));
            return Ok(());
        }
    };
    migrated.options.push(option);
    Ok(())
}

/// Whether a flag is set. Like the reference, this treats every other value as false.
fn is_true(value: &str) -> bool {
    value.eq_ignore_ascii_case("true")
}

fn integer(value: &str) -> anyhow::Result<u64> {
    value
        .parse()
        .map_err(|_| anyhow!("expected an integer, found `{value}`"))
}

fn float(value: &str) -> anyhow::Result<f64> {
    match value.parse::<f64>() {
        Ok(number) if number.is_finite() => Ok(number),
        _ => bail!("expected a number, found `{value}`"),
    }
}

/// Converts a size such as `500M`, `2G`, `500MB` or `500` to bytes. Without a unit, it is in megabytes.
fn megabytes(value: &str) -> anyhow::Result<u64> {
    let upper = value.to_ascii_uppercase();
    let size = upper.strip_suffix('B').unwrap_or(&upper);
    let (number, shift) = match (size.strip_suffix('G'), size.strip_suffix('M')) {
        (Some(number), _) => (number, 30),
        (None, Some(number)) => (number, 20),
        (None, None) => (size, 20),
    };
    let number: u64 = number
        .trim()
        .parse()
        .map_err(|_| anyhow!("expected a size such as `500M` or `2G`, found `{value}`"))?;
    number
        .checked_mul(1 << shift)
        .with_context(|| format!("`{value}` is too large"))
}

fn certificate(value: &str) -> anyhow::Result<Vec<NixOption>> {
    let mut parts = value.split_whitespace();
    let (Some(certificate), Some(key), None) = (parts.next(), parts.next(), parts.next()) else {
        bail!("expected the paths of the certificate and of the key, separated by a space, found `{value}`");
    };
    Ok(vec![
        chatmail("tls.mode", Value::Text("external".to_owned())),
        chatmail("tls.certificateFile", Value::Text(certificate.to_owned())),
        chatmail("tls.keyFile", Value::Text(key.to_owned())),
    ])
}

fn website(value: &str) -> anyhow::Result<Vec<NixOption>> {
    let value = value.trim_end_matches('/');
    let path = if value.starts_with(['/', '.']) {
        value.to_owned()
    } else {
        format!("./{value}")
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "/._-+".contains(c);
    ensure!(
        path.chars().all(plain),
        "expected a path of ASCII letters, digits and `/._-+`, as Nix requires, found `{value}`"
    );
    let mut option = chatmail("web.source", Value::Path(path));
    option.note =
        Some("Copy the folder next to this file, and compare its pages with those in `www/` of the flake.");
    Ok(vec![option])
}

fn ipv6(value: &str) -> anyhow::Result<Vec<NixOption>> {
    Ok(vec![chatmail("enableIPv6", Value::Bool(!is_true(value)))])
}

fn acme(value: &str) -> anyhow::Result<Vec<NixOption>> {
    Ok(vec![NixOption {
        name: "security.acme.defaults.email".to_owned(),
        value: Value::Text(value.to_owned()),
        note: None,
    }])
}

/// A relay with this setting does not run its own iroh relay.
fn iroh(value: &str) -> anyhow::Result<Vec<NixOption>> {
    let url = if value.is_empty() {
        Value::Null
    } else {
        Value::Text(value.to_owned())
    };
    Ok(vec![
        chatmail("iroh.enable", Value::Bool(false)),
        chatmail("iroh.url", url),
    ])
}

fn metrics(value: &str) -> anyhow::Result<Vec<NixOption>> {
    Ok(vec![
        chatmail("metrics.enable", Value::Bool(true)),
        chatmail("metrics.listenAddress", Value::Text(value.to_owned())),
    ])
}

#[cfg(test)]
mod tests;
