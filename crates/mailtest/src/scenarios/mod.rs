//! What clients can expect of a relay that they know only by its address.

pub mod accounts;
pub mod chat;
mod delivery;
mod headers;
mod ip_only;
mod iroh;
pub mod live;
mod mailbox;
pub mod metadata;
pub mod policy;
mod tls;
mod web;
mod websocket;

use crate::context::Context;
use crate::scenario::Scenario;

/// All of them.
pub fn all<C: AsRef<Context>>() -> Vec<Scenario<C>> {
    crate::scenarios! {
        "wrong-password-refused", Addresses, 60, accounts::wrong_password, lane "logins";

        "securejoin-across-relays", Addresses, 300, chat::securejoin_across;
        "messages-across-relays", Addresses, 300, chat::messages_across;
        "attachment-across-relays", Addresses, 300, chat::attachment_across;
        "read-receipt-across-relays", Addresses, 300, chat::read_receipt_across;
        "securejoin-on-one-relay", Addresses, 300, chat::securejoin_local;
        "messages-on-one-relay", Addresses, 300, chat::messages_local;
        "attachment-on-one-relay", Addresses, 300, chat::attachment_local;
        "read-receipt-on-one-relay", Addresses, 300, chat::read_receipt_local;
        "idle-wakes-the-receiver", Addresses, 60, chat::idle_wakes;
        "idle-misses-no-message-of-a-burst", Addresses, 60, chat::idle_burst;

        "cleartext-submitted", Addresses, 60, policy::cleartext_submitted, lane "submission";
        "forged-from", Addresses, 60, policy::forged_from, lane "submission";
        "envelope-sender-of-another-account", Addresses, 60, policy::foreign_envelope, lane "submission";
        "rate-limit", Addresses, 60, policy::rate_limit, lane "submission";
        "slow-senders-occupy-no-filter", Addresses, 120, policy::slow_senders;

        "address-extension", Addresses, 60, delivery::address_extension;
        "long-lines-are-refused-or-arrive", Addresses, 90, delivery::long_lines, lane "submission";
        "message-too-large", Addresses, 90, delivery::too_large, lane "submission";
        "vrfy-tells-nothing", Addresses, 30, delivery::vrfy;
        "header-cleanup", Addresses, 60, headers::cleanup, lane "submission";

        "metadata-announcements", Addresses, 60, metadata::announcements;
        "device-tokens", Addresses, 60, metadata::device_tokens;
        "metadata-of-clients", Addresses, 60, metadata::own_metadata;
        "many-sessions-of-one-account", Addresses, 120, mailbox::many_sessions;
        "special-use-folders", Addresses, 60, mailbox::special_use_folders;

        "iroh-probes", IrohRelay, 600, iroh::probes;

        "port-25-needs-tls", Addresses, 60, tls::port_25;
        "client-ports-need-tls-1.3", Addresses, 60, tls::client_ports;
        "port-443-by-alpn", Addresses, 60, tls::port_443;
        "web-tls-versions-and-http2", Addresses, 60, tls::https;

        "websocket-clients-write-and-wait", Addresses, 120, websocket::clients;
        "websocket-passwords-are-limited", Addresses, 300, websocket::passwords, lane "logins";
        "websocket-refuses-what-is-no-session", Addresses, 120, websocket::requests;
        "websocket-closes-wrong-frames", Addresses, 120, websocket::frames;

        "web-site", Addresses, 60, web::site;
        "web-files-for-machines", Addresses, 60, web::files_for_machines;
        "web-redirects", Addresses, 60, web::redirects;
        "web-new-address", Addresses, 60, web::new_address;

        "ip-only-sign-up", Addresses, 300, ip_only::sign_up;
        "ip-only-messages-across", Addresses, 300, ip_only::messages_across;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::scenario::Needs;

    #[test]
    fn nothing_is_asked_for_that_only_machines_have() {
        for scenario in all::<Context>() {
            let possible = matches!(scenario.needs, Needs::Addresses | Needs::IrohRelay);
            assert!(possible, "{} needs {:?}", scenario.name, scenario.needs);
        }
    }
}
