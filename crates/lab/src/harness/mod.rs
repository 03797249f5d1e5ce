//! The runner of scenarios, `cargo lab test`, and the code that scenarios share.

pub(crate) mod cli;
mod context;
pub(crate) mod mailboxes;
pub(crate) mod tls;
pub(crate) mod writing;

pub(crate) use self::context::{Context, hurried};
