//! The real binary, spoken to as Dovecot does, and a real HTTPS server in the place of the notification server.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "this is a test"
)]

mod metadata;
mod process;
mod push;
mod server;
