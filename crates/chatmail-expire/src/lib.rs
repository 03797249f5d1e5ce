//! Removes old messages and unused accounts, and reports on what the mail store holds.
//!
//! - [`plan`] decides, and touches nothing: records and the time in, verdicts out;
//! - [`store`] goes through the mail store with a few threads, and removes whole accounts;
//! - [`apply`] carries decisions out in one mailbox;
//! - [`report`] sums up, [`render`] writes sums as text, JSON and Prometheus metrics;
//! - [`output`] is how the programs talk: problems, details, files that appear whole.
//!
//! Times are seconds in Unix time, hence UTC.

pub mod apply;
pub mod output;
pub mod plan;
pub mod render;
pub mod report;
pub mod store;
