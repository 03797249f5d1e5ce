//! The real binaries, over their sockets.
#![allow(
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

mod crash;
mod invitations;
mod lastlogin;
mod logins;
mod relay;
mod sasl;
