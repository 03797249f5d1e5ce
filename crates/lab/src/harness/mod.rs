//! What plays scenarios: `cargo lab test`, and what they share.

pub(crate) mod cli;
mod context;
pub(crate) mod mailboxes;
pub(crate) mod writing;

pub(crate) use self::context::{Context, hurried};
