//! The settings of a relay: one JSON document that the NixOS module renders, see [`crate::settings_file`].
//!
//! The options of the module have defaults and documentation, but nothing has a default here: missing keys, unknown keys
//! and values of another type are errors, so that no service runs with a guessed value.

use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::endpoint::Endpoint;

/// All settings of a relay. What an option of the module sets has the option's name here, in snake case.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Mail domain: the part of every address after the `@`.
    pub domain: String,
    /// Public addresses of the relay.
    pub addresses: Vec<IpAddr>,
    /// Mail address of the operator; null if there is none to show.
    #[serde(deserialize_with = "Option::deserialize")]
    pub admin_address: Option<String>,
    /// Rules for new accounts.
    pub accounts: Accounts,
    /// Who can create an account.
    pub registration: Registration,
    /// The mail store, and when messages and accounts are removed from it.
    pub mailboxes: Mailboxes,
    /// Limits on messages.
    pub messages: Messages,
    /// Limits on connections.
    pub connections: Connections,
    /// The relay's certificate.
    pub tls: Tls,
    /// The DKIM key.
    pub dkim: Dkim,
    /// Records in the relay's zone.
    pub dns: Dns,
    /// Push notifications.
    pub push: Push,
    /// The web site and `/new`.
    pub web: Web,
    /// TURN credentials; null if there is no TURN server to announce.
    #[serde(deserialize_with = "Option::deserialize")]
    pub turn: Option<Turn>,
    /// The iroh relay.
    pub iroh: Iroh,
    /// METADATA.
    pub metadata: Metadata,
    /// The login service.
    pub doveauth: Doveauth,
    /// The service that stores the day of the last login.
    pub lastlogin: Lastlogin,
    /// The filters.
    pub filtermail: Filtermail,
    /// The service behind `/new`.
    pub newemail: Newemail,
    /// The service behind `/mxdeliv`.
    pub mxdeliv: Mxdeliv,
    /// The service that delivers over HTTPS.
    pub transport: Transport,
    /// How mail travels between this relay and other servers.
    pub federation: Federation,
    /// The service behind `/imap` and `/smtp`.
    pub websocket: WebSocket,
    /// The complete state of the relay: files and folders.
    pub state: Vec<StateEntry>,
    /// Backups; null if there are none.
    #[serde(deserialize_with = "Option::deserialize")]
    pub backup: Option<Backup>,
    /// Addresses at which the services serve metrics; null if they count nothing.
    // Without the attribute, serde takes a missing key of an `Option` for null.
    #[serde(deserialize_with = "Option::deserialize")]
    pub metrics: Option<Metrics>,
}

/// Rules for new accounts. Existing accounts are not measured against them.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Accounts {
    /// Minimum length of a new local part.
    pub username_min_length: usize,
    /// Maximum length of a new local part.
    pub username_max_length: usize,
    /// Minimum length of a new account's password.
    pub password_min_length: usize,
    /// Load average of one minute above which no account is created.
    pub max_load_1m: f64,
    /// Available memory in bytes (`MemAvailable`) below which no account is created.
    pub min_memory_available: u64,
    /// Free space in bytes below [`Mailboxes::directory`] under which no account is created.
    pub min_disk_free: u64,
}

/// Who can create an account with a first login.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RegistrationMode {
    /// Everybody.
    Open,
    /// Nobody; the operator still can, with `chatmail account create`.
    Closed,
    /// Everybody who has an invitation.
    Invitation,
}

/// Who can create an account, and how many accounts can be created.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Registration {
    /// Who can create an account.
    pub mode: RegistrationMode,
    /// Accounts that first logins create within an hour; null if there is no such limit.
    #[serde(deserialize_with = "Option::deserialize")]
    pub max_per_hour: Option<u32>,
    /// Files that close the relay for new accounts while one of them exists.
    pub nocreate_files: Vec<PathBuf>,
    /// Folder with the invitations and the number of new accounts.
    pub directory: PathBuf,
}

impl Registration {
    /// The file that closes the relay for new accounts, if one exists. A file that cannot be examined counts as
    /// existing: the operator may have meant to close the relay.
    pub fn closed_by(&self) -> Option<&Path> {
        let closes = |file: &&PathBuf| file.try_exists().unwrap_or(true);
        self.nocreate_files.iter().find(closes).map(PathBuf::as_path)
    }
}

/// The mail store, and when messages and accounts are removed from it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mailboxes {
    /// Folder with one folder per account, named by the full address.
    pub directory: PathBuf,
    /// Maximum size of a mailbox in bytes.
    pub quota: u64,
    /// Maximum number of messages in a mailbox.
    pub max_messages: u64,
    /// Days after which a message is removed.
    pub delete_messages_after: u32,
    /// Days after which a large message is removed.
    pub delete_large_messages_after: u32,
    /// Size in bytes above which a message is large.
    pub large_message_size: u64,
    /// Days without a login after which an account is removed.
    pub delete_inactive_accounts_after: u32,
    /// Share of `quota` and `max_messages`, in percent, that is left of a mailbox when its oldest messages are removed.
    /// It is well below the share at which Dovecot asks for that, so that the next message does not cause it again.
    pub trim_to_percent: u64,
}

/// Limits on messages.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Messages {
    /// Maximum size of a message in bytes, as transferred.
    pub max_size: usize,
    /// Maximum number of recipients of a submitted message, announced as `maxsmtprecipients`.
    pub max_recipients: usize,
    /// Messages that one address may submit per minute once its burst is used up.
    pub max_per_minute: u32,
    /// Messages that one address may submit at once.
    pub burst: u32,
}

/// Limits on connections.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Connections {
    /// Connections that one filter serves at once; more wait in the listen queue.
    pub filter: usize,
}

/// How the relay proves its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum TlsMode {
    /// Certificates from an ACME server; other servers and clients verify them.
    Acme,
    /// Certificate files that the operator provides; other servers and clients verify them.
    External,
    /// A certificate that the relay made itself. Clients know from the leading `_` of the name or from `ic=3`.
    SelfSigned,
}

/// The relay's certificate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Tls {
    /// Where the certificate comes from.
    pub mode: TlsMode,
    /// The account that orders it; null without ACME, or if it is unknown where this release of NixOS keeps accounts.
    #[serde(deserialize_with = "Option::deserialize")]
    pub acme: Option<AcmeAccount>,
}

/// The account of this host with a certificate authority, in the format of lego.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AcmeAccount {
    /// URL of the server's directory (RFC 8555 section 7.1.1).
    pub server: String,
    /// Mail address, which lego takes for a name.
    pub email: String,
    /// Folder with accounts by server and mail address.
    pub directory: PathBuf,
    /// Unit that orders certificates.
    pub unit: String,
}

/// The DKIM key.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dkim {
    /// Selector (RFC 6376 section 3.1).
    pub selector: String,
    /// Private key, PEM.
    pub key_file: PathBuf,
}

/// Records in the relay's zone.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dns {
    /// Version of the MTA-STS policy (RFC 8461 section 3.1, `id`); changes whenever the policy does.
    pub mta_sts_id: String,
    /// ACME account for the CAA record (RFC 8657, `accounturi`); null permits any account of the issuer.
    #[serde(deserialize_with = "Option::deserialize")]
    pub acme_account_uri: Option<String>,
}

/// Push notifications.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Push {
    /// Server that gets the device tokens.
    pub notification_url: String,
    /// Folder of the push queue.
    pub queue_dir: PathBuf,
}

/// The web site and `/new`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Web {
    /// Addresses that `/new` generates per minute, for all clients together.
    pub new_addresses_per_minute: u32,
    /// Whether the web site has a page with the state of the relay.
    pub status_page: bool,
    /// Text of the privacy page.
    pub privacy: Privacy,
}

/// The operator's own text on the privacy page; what is null is left out.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Privacy {
    /// Name and postal address of the person responsible for the relay; may have several lines.
    #[serde(deserialize_with = "Option::deserialize")]
    pub postal_address: Option<String>,
    /// The data protection officer; may have several lines.
    #[serde(deserialize_with = "Option::deserialize")]
    pub data_protection_officer: Option<String>,
    /// The data protection authority that takes complaints.
    #[serde(deserialize_with = "Option::deserialize")]
    pub supervisory_authority: Option<String>,
}

/// How chatmail-metadata generates credentials for coturn.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Turn {
    /// Host name that clients connect to.
    pub host: String,
    /// Port that clients connect to.
    pub port: u16,
    /// First UDP port from which coturn relays.
    pub min_port: u16,
    /// Last UDP port from which coturn relays.
    pub max_port: u16,
    /// File with the secret shared with coturn.
    pub secret_file: PathBuf,
    /// Seconds that credentials are valid for.
    pub lifetime: u64,
}

/// The iroh relay.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Iroh {
    /// URL announced as `irohrelay`; null announces nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    pub url: Option<String>,
}

/// METADATA.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metadata {
    /// Unix socket on which Dovecot speaks the dict protocol.
    pub socket: PathBuf,
    /// Unix socket on which Postfix and the filters report deliveries to mailboxes, as lookups in a socketmap.
    pub delivered_socket: PathBuf,
    /// JSON file announced as `appversions`; null announces nothing.
    #[serde(deserialize_with = "Option::deserialize")]
    pub app_versions: Option<PathBuf>,
    /// Maximum size of the announced app versions, in bytes of compact JSON.
    pub max_app_versions_bytes: usize,
    /// Maximum number of entries that clients may keep in one account.
    pub max_entries: usize,
    /// Maximum size of these keys and values together, in bytes.
    pub max_entry_bytes: usize,
}

/// The login service.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Doveauth {
    /// Unix socket on which Dovecot's Lua script asks.
    pub socket: PathBuf,
    /// Logins to existing accounts, and again first logins, that may wait for a hash at once. Both together are fewer
    /// than Dovecot has auth workers, so that a login that needs no hash finds a free one.
    pub max_hashing: usize,
    /// Logins of Postfix.
    pub sasl: Sasl,
}

/// Where Postfix asks about logins.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Sasl {
    /// Unix socket on which Postfix speaks the protocol of Dovecot's authentication clients.
    pub socket: PathBuf,
    /// Maximum number of connections: one for each smtpd(8) that offers logins.
    pub max_connections: usize,
}

/// The service that stores the day of the last login.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lastlogin {
    /// Unix socket on which Dovecot's `last_login` plugin speaks the dict protocol.
    pub socket: PathBuf,
}

/// The filters.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Filtermail {
    /// Unix socket on which Postfix asks whether an address may send another message.
    pub limit_socket: PathBuf,
    /// Unix socket on which Postfix asks whether a server may send mail; null if everybody may.
    #[serde(deserialize_with = "Option::deserialize")]
    pub rules_socket: Option<PathBuf>,
    /// Unix socket (datagram) on which Postfix's agents of deliveries to other servers log.
    pub deliveries_socket: PathBuf,
    /// File with the results of deliveries by destination.
    pub destinations_file: PathBuf,
    /// Client sessions that may ask at once.
    pub max_sessions: usize,
    /// Large messages.
    pub large: LargeMessages,
    /// Where Postfix hands over submitted mail.
    pub outgoing_listen: Endpoint,
    /// Where submitted mail returns to Postfix.
    pub outgoing_reinject: Endpoint,
    /// Where Postfix hands over arriving mail.
    pub incoming_listen: Endpoint,
    /// Where arriving mail returns to Postfix.
    pub incoming_reinject: Endpoint,
    /// Resolver for DKIM keys.
    pub resolver: SocketAddr,
    /// How messages to users of this relay get to their mailboxes without Postfix's queue; none if all go through it.
    #[serde(deserialize_with = "Option::deserialize")]
    pub direct_delivery: Option<DirectDelivery>,
}

/// Large messages, of which each service has only a few in memory at once. The module derives its limit of memory from
/// these numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LargeMessages {
    /// Size in bytes above which a message is large.
    pub above: usize,
    /// Large messages received at once, on all connections together.
    pub at_once: usize,
}

impl LargeMessages {
    /// Whether a message of this size, in bytes, is large.
    pub fn include(&self, size: usize) -> bool {
        size > self.above
    }
}

/// Delivery from the filters to Dovecot.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DirectDelivery {
    /// Where Dovecot speaks LMTP.
    pub lmtp: Endpoint,
    /// Unix socket on which the filters report deliveries, in Postfix's socketmap protocol.
    pub reports_socket: PathBuf,
    /// Connections of each filter; a message without a free one goes through the queue.
    pub max_connections: usize,
    /// Names of header fields that no message keeps.
    pub dropped_fields: Vec<String>,
    /// Names of header fields that submitted messages do not keep either.
    pub dropped_submitted_fields: Vec<String>,
    /// The subject that submitted messages get.
    pub submitted_subject: String,
}

/// The service behind `/new`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Newemail {
    /// Unix socket on which nginx passes on requests for `/new`.
    pub socket: PathBuf,
}

/// The service behind `/mxdeliv`: mail from other relays over HTTPS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mxdeliv {
    /// Unix socket on which nginx passes on requests for `/mxdeliv`.
    pub socket: PathBuf,
    /// Where Postfix accepts this mail, with the address of the client in the PROXY protocol.
    pub postfix: Endpoint,
    /// Requests served at once; more wait in the listen queue.
    pub max_connections: usize,
}

/// The service that delivers to other relays over HTTPS.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Transport {
    /// Where Postfix passes on messages.
    pub listen: SocketAddr,
    /// Unix socket on which Postfix looks up how to reach a destination. Only its owner can use `listen`.
    pub lookup_socket: PathBuf,
    /// Unix socket (datagram) on which the filter for submitted mail tells results of deliveries.
    pub results_socket: PathBuf,
    /// Processes of Postfix that can look up something at once.
    pub max_lookups: usize,
    /// Port of other relays.
    pub port: u16,
    /// Deliveries at once.
    pub max_connections: usize,
    /// IPv4 networks that are not public, to which no mail is delivered.
    pub reserved_networks: Vec<String>,
    /// IPv4 networks of these to which mail is delivered nevertheless.
    pub allowed_networks: Vec<String>,
    /// Whether mail is delivered to IPv6 addresses.
    pub ipv6: bool,
}

/// How mail travels between this relay and other servers.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Federation {
    /// The only domains with which the relay exchanges mail; null if with all.
    #[serde(deserialize_with = "Option::deserialize")]
    pub allow: Option<Vec<String>>,
    /// Domains with which it exchanges no mail.
    pub block: Vec<String>,
    /// `POST /mxdeliv`.
    pub https: Directions,
    /// Port 25.
    pub smtp: Directions,
}

/// Directions in which a protocol is used.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Directions {
    /// To other servers.
    pub send: bool,
    /// From other servers.
    pub receive: bool,
}

/// The service behind `/imap` and `/smtp`: sessions of clients over WebSocket.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WebSocket {
    /// Unix socket on which nginx passes on requests for a WebSocket.
    pub socket: PathBuf,
    /// Where Dovecot accepts these sessions, with the address of the client in the PROXY protocol.
    pub imap: Endpoint,
    /// Where Postfix accepts these sessions, with the address of the client in the PROXY protocol.
    pub smtp: Endpoint,
    /// Origins of web pages that may open a WebSocket. Clients that are not browsers have no origin.
    pub origins: Vec<String>,
    /// Sessions served at once; more wait in the listen queue.
    pub max_connections: usize,
}

/// A file or folder that belongs to the state of the relay.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StateEntry {
    /// Absolute path.
    pub path: PathBuf,
    /// Name of the user who owns it.
    pub owner: String,
    /// Whether it exists on every relay with these settings.
    pub required: bool,
    /// Whether backups contain it.
    pub backup: bool,
    /// Whether a restored relay gets it from the backup.
    pub restore: bool,
}

/// Backups with restic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Backup {
    /// The repository, as restic names it.
    pub repository: String,
    /// File with the password of the repository.
    pub password_file: PathBuf,
    /// File with environment variables for restic.
    #[serde(deserialize_with = "Option::deserialize")]
    pub environment_file: Option<PathBuf>,
    /// The program.
    pub restic: PathBuf,
}

/// Addresses of this host at which the services serve metrics.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Metrics {
    /// doveauth.
    pub doveauth: SocketAddr,
    /// filtermail for submitted mail.
    pub filtermail_outgoing: SocketAddr,
    /// filtermail for arriving mail.
    pub filtermail_incoming: SocketAddr,
    /// filtermail for mail over HTTPS.
    pub filtermail_mxdeliv: SocketAddr,
    /// filtermail for delivery over HTTPS.
    pub filtermail_transport: SocketAddr,
    /// chatmail-metadata.
    pub metadata: SocketAddr,
    /// newemail.
    pub newemail: SocketAddr,
    /// lastlogin.
    pub lastlogin: SocketAddr,
    /// chatmail-websocket.
    pub websocket: SocketAddr,
}
