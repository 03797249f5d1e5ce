//! Mail clients, and scenarios that run them against chatmail relays. A scenario knows only the address and the
//! certificate of a relay, so relays can run in containers, in virtual machines or on the Internet.
//!
//! Without the feature `scenarios`, the crate contains only Delta Chat, which the lab's demo needs.

pub mod client;
#[cfg(feature = "scenarios")]
mod context;
#[cfg(feature = "scenarios")]
pub mod live;
#[cfg(feature = "scenarios")]
pub mod ping;
#[cfg(feature = "scenarios")]
pub mod run;
#[cfg(feature = "scenarios")]
mod scenario;
#[cfg(feature = "scenarios")]
pub mod scenarios;
pub mod topology;

#[cfg(feature = "scenarios")]
pub use context::{Context, until};
#[cfg(feature = "scenarios")]
pub use scenario::{Environment, Needs, Playing, Scenario};
