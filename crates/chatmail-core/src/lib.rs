//! What every service of a relay knows about addresses, settings and the mail store.
//!
//! No async and no sockets: callers on a runtime wrap the file operations in their own blocking tasks.

pub mod account;
pub mod address;
pub mod endpoint;
pub mod generate;
pub mod grammar;
pub mod limits;
pub mod maildir;
pub mod password;
pub mod postqueue;
pub mod removal;
pub mod settings;
pub mod turn;

pub use account::MailStore;
pub use address::Address;
pub use endpoint::Endpoint;
pub use settings::Settings;
