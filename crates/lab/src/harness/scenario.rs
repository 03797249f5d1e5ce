//! What a scenario is.

use std::pin::Pin;
use std::time::Duration;

use super::context::Context;

/// What a scenario asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Needs {
    /// Relays that can be reached at their standard ports.
    Addresses,
    /// Also the machines that they run on.
    Machines,
    /// Chromium on this machine, beside relays of the lab: a virtual machine that plays scenarios has none.
    Browser,
}

pub(crate) type Playing<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

/// One scenario.
pub(crate) struct Scenario {
    /// How it is chosen and reported.
    pub(crate) name: &'static str,
    /// What it asks for.
    pub(crate) needs: Needs,
    /// It has failed when it takes longer.
    pub(crate) deadline: Duration,
    /// Plays it.
    pub(crate) play: for<'a> fn(&'a Context) -> Playing<'a>,
}
