//! The real binaries on mail stores in temporary folders.
#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "all of this is a test, helpers included"
)]

mod expire;
mod hostile;
mod quota;
mod report;
mod tree;
