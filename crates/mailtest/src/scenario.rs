//! What a scenario is.

use std::pin::Pin;
use std::time::Duration;

/// What a scenario needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Needs {
    /// Relays that can be reached at their standard ports.
    Addresses,
    /// Relays that also run an iroh relay. Those of the lab start it when a scenario needs it.
    IrohRelay,
    /// The machines that the relays run on. Only the lab has them.
    Machines,
    /// The same, and Chromium on this computer.
    Browser,
}

/// A scenario that is being played.
pub type Playing<'a> = Pin<Box<dyn Future<Output = anyhow::Result<()>> + Send + 'a>>;

/// One scenario, played with what `C` gives access to.
pub struct Scenario<C> {
    /// How it is chosen and reported.
    pub name: &'static str,
    /// What it needs.
    pub needs: Needs,
    /// It has failed when it takes longer.
    pub deadline: Duration,
    /// The lane in which it is played, beside those of other lanes: it mostly waits, has accounts of its own, measures
    /// no time, and changes nothing that another scenario looks at. Without a lane it is played alone.
    pub lane: Option<&'static str>,
    /// Plays it.
    pub play: for<'a> fn(&'a C) -> Playing<'a>,
}

/// What the runner asks of the place where scenarios are played.
pub trait Environment {
    /// A moment in the logs of the relays.
    type Moment;

    /// Provides what a scenario needs.
    fn provide(&self, needs: Needs) -> impl Future<Output = anyhow::Result<()>>;

    /// The present moment.
    fn now(&self) -> impl Future<Output = Self::Moment>;

    /// The last lines that the relays have logged since: shown with a failure.
    fn logged_since(&self, moment: &Self::Moment) -> impl Future<Output = Vec<String>>;
}

/// A list of scenarios from rows of `name, needs, seconds, function`, in the order in which they are played. A row can
/// end in `, lane "NAME"`.
#[macro_export]
macro_rules! scenarios {
    ($($name:literal, $needs:ident, $seconds:literal, $function:path $(, lane $lane:literal)?;)+) => {
        vec![$($crate::Scenario {
            name: $name,
            needs: $crate::Needs::$needs,
            deadline: ::std::time::Duration::from_secs($seconds),
            lane: None$(.or(Some($lane)))?,
            play: |context| Box::pin($function(context.as_ref())),
        }),+]
    };
}
