//! The lab's Python looks at what the filters let pass.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a test ends at the first surprise"
)]

#[path = "../../../filtermail/tests/it/generator.rs"]
mod generator;
mod python;
