//! The settings file: one JSON document that the NixOS module renders.
//!
//! The module's options carry the defaults and the documentation. Nothing has a default here: a missing key, a key
//! of another name and a value of another type are refused, so that a service never runs on a guess.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

/// The option of every program that names its settings file.
#[derive(Debug, Clone, clap::Args)]
pub struct SettingsFile {
    /// Settings file that the NixOS module renders.
    #[arg(
        id = "settings",
        long,
        value_name = "PATH",
        global = true,
        default_value = "/etc/chatmail/settings.json"
    )]
    pub path: PathBuf,
}

impl SettingsFile {
    /// Reads and checks the file.
    pub fn load(&self) -> Result<Settings, SettingsError> {
        Settings::load(&self.path)
    }
}

/// All settings of a relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// The mail domain: what stands behind the `@` of every address here.
    pub domain: String,
    /// Folder that holds one folder per account, named by the full address.
    pub mailboxes_dir: PathBuf,
    /// Rules for new accounts.
    pub accounts: Accounts,
    /// The login service.
    pub doveauth: Doveauth,
    /// The service that stores the day of the last login.
    pub lastlogin: Lastlogin,
    /// METADATA and push.
    pub metadata: Metadata,
    /// The filter between Postfix and itself.
    pub filtermail: Filtermail,
    /// `POST /new`.
    pub newemail: Newemail,
    /// Mail from other relays over HTTPS.
    pub mxdeliv: Mxdeliv,
    /// When messages and accounts are removed.
    pub expire: Expire,
    /// How other servers and clients see the relay.
    pub tls: Tls,
    /// What the zone of the relay holds.
    pub dns: Dns,
    /// What the web site says about the operator.
    pub website: Website,
    /// Where services tell what they have counted; none: nowhere.
    // Without the attribute a missing key would count as none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub metrics: Option<Metrics>,
}

/// Rules for new accounts; accounts that exist are never measured against them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    /// Fewest characters of a new localpart.
    pub username_min_length: usize,
    /// Most characters of a new localpart.
    pub username_max_length: usize,
    /// Fewest characters of a new account's password.
    pub password_min_length: usize,
    /// While one of these files exists no account is created.
    pub nocreate_files: Vec<PathBuf>,
    /// No account is created while the load average of one minute is above this.
    pub max_load_1m: f64,
    /// No account is created while less memory (bytes, `MemAvailable`) is available.
    pub min_memory_available: u64,
    /// No account is created while less space (bytes) is free below `mailboxes_dir`.
    pub min_disk_free: u64,
}

impl Accounts {
    /// The file that closes the relay for new accounts, if one does. One that cannot be looked at counts as there: the
    /// operator may have meant to close the relay.
    pub fn closed_by(&self) -> Option<&Path> {
        let closes = |file: &&PathBuf| file.try_exists().unwrap_or(true);
        self.nocreate_files.iter().find(closes).map(PathBuf::as_path)
    }
}

/// The login service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doveauth {
    /// Unix socket that Dovecot's Lua script asks.
    pub socket: PathBuf,
    /// Logins to accounts that may wait for their password to be hashed at once, and first logins that may. Together
    /// fewer than Dovecot has auth workers, so that logins which need no hash find one that is free.
    pub max_hashing: usize,
}

/// The service that stores the day of the last login.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lastlogin {
    /// Unix socket that Dovecot's `last_login` plugin speaks the dict protocol to.
    pub socket: PathBuf,
}

/// METADATA and push.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unix socket that Dovecot speaks the dict protocol to.
    pub socket: PathBuf,
    /// Folder of the persistent push queue.
    pub queue_dir: PathBuf,
    /// Server that takes device tokens.
    pub notification_url: String,
    /// URL announced as `irohrelay`; none: not announced.
    pub iroh_relay: Option<String>,
    /// TURN credentials; none: not announced.
    pub turn: Option<Turn>,
    /// Recipients that one submitted message may have, announced as `maxsmtprecipients`.
    pub max_smtp_recipients: u32,
    /// JSON file announced as `appversions`; none: not announced.
    pub appversions_file: Option<PathBuf>,
    /// Entries that clients may keep in one account.
    pub max_entries: usize,
    /// Bytes of keys and values that these may have together.
    pub max_entry_bytes: usize,
}

/// How chatmail-metadata makes credentials for coturn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Host name that clients connect to.
    pub host: String,
    /// Port that clients connect to.
    pub port: u16,
    /// File that holds the secret shared with coturn.
    pub secret_file: PathBuf,
    /// Seconds that credentials are valid for.
    pub lifetime: u64,
}

/// The filter between Postfix and itself.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filtermail {
    /// Largest message in bytes, as transferred.
    pub max_message_size: usize,
    /// Messages that one address may submit per minute once its burst is used up.
    pub max_user_send_per_minute: u32,
    /// Messages that one address may submit at once.
    pub max_user_send_burst: u32,
    /// Connections that one filter serves at once; further ones wait in the listen queue.
    pub max_connections: usize,
    /// Where Postfix asks whether an address may send another message, before it is sent.
    pub limit_socket: PathBuf,
    /// Sessions of clients that may ask at once.
    pub max_sessions: usize,
    /// Where Postfix hands over submitted mail.
    pub outgoing_listen: Endpoint,
    /// Where submitted mail goes back to Postfix.
    pub outgoing_reinject: Endpoint,
    /// Where Postfix hands over arriving mail.
    pub incoming_listen: Endpoint,
    /// Where arriving mail goes back to Postfix.
    pub incoming_reinject: Endpoint,
    /// Resolver asked for DKIM keys.
    pub resolver: SocketAddr,
}

/// `POST /mxdeliv`: mail from other relays over HTTPS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mxdeliv {
    /// Unix socket that nginx passes `/mxdeliv` to.
    pub socket: PathBuf,
    /// Where Postfix takes this mail, with the address of the client in the PROXY protocol.
    pub postfix: Endpoint,
    /// Requests served at once; further ones wait in the listen queue.
    pub max_connections: usize,
}

/// `POST /new`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newemail {
    /// Unix socket that nginx passes `/new` to.
    pub socket: PathBuf,
    /// Addresses given out per minute, over all clients.
    pub max_per_minute: u32,
}

/// When messages and accounts are removed.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Expire {
    /// Days after which a message is removed.
    pub delete_mails_after: u32,
    /// Days after which a large message is removed.
    pub delete_large_after: u32,
    /// Bytes above which a message is large.
    pub large_message_size: u64,
    /// Days without a login after which an account is removed.
    pub delete_inactive_users_after: u32,
    /// Bytes that one mailbox may hold.
    pub mailbox_quota: u64,
    /// Messages that one mailbox may hold.
    pub max_messages: u64,
}

/// How the relay proves its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Certificates from an ACME server; other servers and clients verify them.
    Acme,
    /// Certificate files that the operator provides; other servers and clients verify them.
    External,
    /// A certificate that the relay made itself; clients know from the leading `_` of the name, or from `ic=3`.
    SelfSigned,
}

/// How other servers and clients see the relay's certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Where the certificate comes from.
    pub mode: TlsMode,
}

/// What the zone of the relay holds.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Public addresses of the relay.
    pub addresses: Vec<IpAddr>,
    /// DKIM selector (RFC 6376 section 3.1).
    pub dkim_selector: String,
    /// Private DKIM key, PEM.
    pub dkim_key_file: PathBuf,
    /// Version of the MTA-STS policy (RFC 8461 section 3.1, `id`); changes whenever the policy does.
    pub mta_sts_id: String,
    /// ACME account for the CAA record (RFC 8657, `accounturi`); none: any account of the issuer.
    pub acme_account_uri: Option<String>,
}

/// What the web site says about the operator, in the operator's own words; what is none is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Website {
    /// Mail address for questions of privacy and for reports of abuse.
    pub privacy_mail: Option<String>,
    /// Name and postal address of who is responsible for the relay; may have several lines.
    pub privacy_postal: Option<String>,
    /// The data protection officer; may have several lines.
    pub privacy_officer: Option<String>,
    /// The data protection authority that complaints go to.
    pub privacy_supervisor: Option<String>,
}

/// Where each service serves its metrics: an address of this host that Prometheus reaches.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// doveauth.
    pub doveauth: SocketAddr,
    /// filtermail for submitted mail.
    pub filtermail_outgoing: SocketAddr,
    /// filtermail for arriving mail.
    pub filtermail_incoming: SocketAddr,
    /// Of the mail that arrives over HTTPS.
    pub filtermail_mxdeliv: SocketAddr,
    /// chatmail-metadata.
    pub metadata: SocketAddr,
    /// newemail.
    pub newemail: SocketAddr,
    /// lastlogin.
    pub lastlogin: SocketAddr,
}

/// Why a settings file was refused; the service does not start.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The file cannot be read.
    #[error("cannot read the settings file {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not what the module renders.
    #[error("wrong settings file {path}: at `{key}`: {reason}")]
    Parse {
        /// The file.
        path: PathBuf,
        /// Path of the key, as in `filtermail.max_message_size`.
        key: String,
        /// What was found and what is allowed.
        reason: String,
    },
    /// The values do not fit each other.
    #[error("wrong settings file {path}: `{key}` is {found}; allowed is {allowed}")]
    Value {
        /// The file.
        path: PathBuf,
        /// Path of the key.
        key: &'static str,
        /// The refused value.
        found: String,
        /// What the key may hold.
        allowed: &'static str,
    },
}

impl Settings {
    /// Reads and checks the settings file.
    pub fn load(path: &Path) -> Result<Self, SettingsError> {
        let text = std::fs::read_to_string(path).map_err(|source| SettingsError::Read {
            path: path.to_owned(),
            source,
        })?;
        Self::parse(&text, path)
    }

    /// Parses and checks the text of a settings file; `path` is only for messages.
    pub fn parse(text: &str, path: &Path) -> Result<Self, SettingsError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let settings: Self =
            serde_path_to_error::deserialize(&mut json).map_err(|error| SettingsError::Parse {
                path: path.to_owned(),
                key: error.path().to_string(),
                reason: error.inner().to_string(),
            })?;
        json.end().map_err(|error| SettingsError::Parse {
            path: path.to_owned(),
            key: ".".to_owned(),
            reason: error.to_string(),
        })?;
        settings.check(path)?;
        Ok(settings)
    }

    fn check(&self, path: &Path) -> Result<(), SettingsError> {
        let refuse = |key, found: String, allowed| {
            Err(SettingsError::Value {
                path: path.to_owned(),
                key,
                found,
                allowed,
            })
        };
        if !crate::grammar::is_domain(&self.domain) {
            return refuse(
                "domain",
                format!("{:?}", self.domain),
                "a domain in lower case, or an address literal",
            );
        }
        let accounts = &self.accounts;
        if accounts.username_min_length == 0 || accounts.username_min_length > accounts.username_max_length {
            return refuse(
                "accounts.username_min_length",
                accounts.username_min_length.to_string(),
                "1 to accounts.username_max_length",
            );
        }
        if accounts.username_max_length > crate::grammar::MAX_LOCALPART {
            return refuse(
                "accounts.username_max_length",
                accounts.username_max_length.to_string(),
                "at most 64 (RFC 5321 section 4.5.3.1.1)",
            );
        }
        if self.doveauth.max_hashing == 0 {
            return refuse("doveauth.max_hashing", "0".to_owned(), "1 or more");
        }
        let filter = &self.filtermail;
        if filter.max_user_send_per_minute == 0 {
            return refuse("filtermail.max_user_send_per_minute", "0".to_owned(), "1 or more");
        }
        if filter.max_user_send_burst == 0 {
            return refuse("filtermail.max_user_send_burst", "0".to_owned(), "1 or more");
        }
        if filter.max_connections == 0 {
            return refuse("filtermail.max_connections", "0".to_owned(), "1 or more");
        }
        if filter.max_sessions == 0 {
            return refuse("filtermail.max_sessions", "0".to_owned(), "1 or more");
        }
        if self.newemail.max_per_minute == 0 {
            return refuse("newemail.max_per_minute", "0".to_owned(), "1 or more");
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
