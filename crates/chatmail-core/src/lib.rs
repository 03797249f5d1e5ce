//! Addresses, settings and the mail store, as all services of a relay use them.
//!
//! The crate uses neither async nor sockets: callers on a runtime run its file operations in blocking tasks.

pub mod account;
pub mod address;
pub mod destinations;
pub mod endpoint;
pub mod federation;
pub mod generate;
pub mod grammar;
pub mod limits;
pub mod maildir;
pub mod password;
pub mod postqueue;
pub mod registration;
pub mod removal;
pub mod replace;
pub mod roles;
pub mod settings;
pub mod settings_file;
mod time;
pub mod turn;

pub use account::MailStore;
pub use address::Address;
pub use endpoint::Endpoint;
pub use settings::Settings;
pub use settings_file::SettingsFile;
pub use time::unix_seconds;
