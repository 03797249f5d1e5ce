//! The filter from outside: messages from files through the policy, and raw bytes through a whole session.

mod dkim;
mod fixtures;
mod relay;
mod session;
