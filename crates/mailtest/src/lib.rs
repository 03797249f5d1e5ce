//! Mail clients, and scenarios that they play against chatmail relays. All that is known of a relay is its address and
//! its certificate: relays in containers, in virtual machines and on the Internet are the same here.
//!
//! Without the feature `scenarios` there is only Delta Chat, which the lab's demo needs.

pub mod client;
#[cfg(feature = "scenarios")]
mod context;
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
