//! What `cargo lab` does before the lab itself is compiled, and what both need: where files are, how progress is shown,
//! what must be installed.

pub mod mounts;
pub mod paths;
pub mod prerequisites;
pub mod programs;
pub mod progress;
pub mod project;
pub mod rootfs;
pub mod tasks;
