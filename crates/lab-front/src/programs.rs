//! How the lab learns where its build put the programs of the relays.

/// Names the file with what `cargo build --message-format=json` printed.
pub const VARIABLE: &str = "CHATMAIL_LAB_BUILD";
