//! SMTP on both sides: a server for Postfix's `smtpd_proxy_filter` client, and a client that returns messages to
//! Postfix. A [`Policy`] decides which messages pass.

mod client;
mod command;
mod connection;
mod data;
mod envelope;
mod large;
mod mailboxes;
mod server;
mod session;

pub use client::{Delivery, Reinjector, Target};
pub use command::{Command, parse_command};
pub use data::{MessageData, Received, Stuffing, stuffed};
pub use envelope::{Envelope, Path, network};
pub use large::Large;
pub use mailboxes::Mailboxes;
pub use server::{Admission, Policy, Server};
pub use session::{IDLE_TIMEOUT, serve_connection};
