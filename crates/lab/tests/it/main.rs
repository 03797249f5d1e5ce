//! Compares the filters with Python's `email`, and runs the scripts of the flake.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::unwrap_used,
    reason = "a panic fails the test"
)]

#[path = "../../../filtermail/tests/it/generator.rs"]
mod generator;
mod operator;
mod python;
