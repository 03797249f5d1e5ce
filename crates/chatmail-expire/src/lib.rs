//! Removes old messages and unused accounts, and reports on the contents of the mail store.
//!
//! - [`plan`] decides by records and the time, without I/O;
//! - [`store`] walks the mail store with a few threads, and removes whole accounts;
//! - [`apply`] applies decisions to one mailbox;
//! - [`report`] computes sums, and [`render`] formats them as text, JSON and Prometheus metrics;
//! - [`output`] prints problems and details, and writes files atomically.
//!
//! Times are seconds of Unix time, and therefore UTC.

pub mod apply;
pub mod output;
pub mod plan;
pub mod render;
pub mod report;
pub mod store;
