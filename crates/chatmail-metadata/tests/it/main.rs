//! The real binary with a client that speaks like Dovecot, and an HTTPS server as the notification server.
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
