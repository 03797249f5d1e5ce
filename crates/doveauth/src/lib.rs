//! Logins that create accounts, and the day of the last login.
//!
//! Dovecot passes every login to doveauth through a Lua script (`nixos/files/doveauth.lua`), and Postfix asks it
//! directly.
//!
//! - [`login`]: verifies logins and creates accounts;
//! - [`hasher`]: limits how many passwords are hashed at once;
//! - [`verified`]: logins that need no hash because they were verified before;
//! - `registrar`: which accounts are created, and how many;
//! - `files`: file operations on threads that may block;
//! - [`locks`]: one creation of an address at a time;
//! - [`http`]: the requests of the script;
//! - [`sasl`]: the logins of Postfix;
//! - [`metrics`]: the metrics of both services;
//! - [`lastlogin`]: the dict of Dovecot's `last_login` plugin.

mod files;
pub mod hasher;
pub mod http;
pub mod lastlogin;
pub mod locks;
pub mod login;
pub mod metrics;
mod registrar;
pub mod sasl;
pub mod verified;
