//! What `cargo lab` does before it compiles the lab, and code that both share: paths, progress display, prerequisites.

pub mod mounts;
pub mod paths;
pub mod prerequisites;
pub mod programs;
pub mod progress;
pub mod project;
pub mod rootfs;
pub mod tasks;
