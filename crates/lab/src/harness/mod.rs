//! What plays scenarios: `cargo lab test`, how scenarios are chosen, played and reported, and what they share.

pub(crate) mod cli;
mod context;
pub(crate) mod mailboxes;
pub(crate) mod run;
mod scenario;
pub(crate) mod writing;

pub(crate) use self::context::{Context, Pair, hurried, until};
pub(crate) use self::scenario::{Needs, Scenario};
