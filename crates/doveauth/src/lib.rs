//! Logins that create accounts, and the day of the last login.
//!
//! Dovecot asks doveauth about every login through a Lua script (`nixos/files/doveauth.lua`).
//!
//! - [`login`]: what a login means, and the rules for new accounts;
//! - [`hasher`]: how many of them are computed at once;
//! - [`verified`]: logins that need no computing because they were verified before;
//! - [`locks`]: one creation of an address at a time;
//! - [`http`]: the requests of the script;
//! - [`metrics`]: what is counted;
//! - [`lastlogin`]: the dict of Dovecot's `last_login` plugin.

pub mod hasher;
pub mod http;
pub mod lastlogin;
pub mod locks;
pub mod login;
pub mod metrics;
pub mod verified;
