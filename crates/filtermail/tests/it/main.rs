//! The filter from outside: messages from files through the policy, and raw bytes through a whole session.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

mod differential;
mod dkim;
mod fixtures;
mod generator;
mod mailboxes;
mod mxdeliv;
mod relay;
mod session;
