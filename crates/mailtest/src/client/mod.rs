//! Clients: minimal SMTP and IMAP clients, Delta Chat, a real browser, and a mail server outside the lab.

#[cfg(feature = "scenarios")]
mod account;
#[cfg(feature = "scenarios")]
pub mod browser;
pub mod deltachat;
#[cfg(feature = "scenarios")]
pub mod http;
#[cfg(feature = "scenarios")]
pub mod imap;
#[cfg(feature = "scenarios")]
pub mod message;
#[cfg(feature = "scenarios")]
pub mod mxdeliv;
#[cfg(feature = "scenarios")]
pub mod outside;
#[cfg(feature = "scenarios")]
pub mod pgp;
#[cfg(feature = "scenarios")]
pub mod smtp;
#[cfg(feature = "scenarios")]
pub mod tls;
#[cfg(feature = "scenarios")]
pub mod websocket;
#[cfg(feature = "scenarios")]
pub mod wire;

#[cfg(feature = "scenarios")]
pub use self::account::{Account, Peer, arrival, arrival_of};
