//! Tells the lab where cargo has put the relays' programs.

/// Environment variable with the path of the output of `cargo build --message-format=json`.
pub const VARIABLE: &str = "CHATMAIL_LAB_BUILD";
