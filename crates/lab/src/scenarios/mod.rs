//! What the relays must do, played by real clients. `cargo lab test` runs all of it.
//!
//! Scenarios that know a relay only by its addresses are in the crate `mailtest`; those here look into machines: their
//! journals, files and processes.

mod accounts;
mod addresses;
mod backup;
mod bounce;
mod browser;
mod burst;
mod certificate;
mod closed;
mod commands;
mod configuration;
mod counters;
mod delivery;
mod destinations;
mod direct;
mod disguise;
mod doctor;
mod dropped;
mod exchangers;
mod expiry;
mod failures;
mod families;
mod federation;
mod front;
mod full;
mod guide;
mod hostile;
mod inside;
mod invitations;
mod ip_only;
mod iroh;
mod isolation;
mod kill;
mod large;
mod live;
mod metrics;
mod migrate;
mod mxdeliv;
mod network;
mod operator;
mod outside;
mod plain_postfix;
mod ports;
mod privacy;
mod provoke;
mod push;
mod quota;
mod reboot;
mod rules;
mod signed;
mod statistics;
mod status_page;
mod store;
mod surroundings;
pub(crate) mod switch;
mod turn;
mod web;
mod websocket;
mod without_smtp;

use mailtest::Scenario;

use crate::harness::{Context, hurried};

/// All scenarios: first those that know relays only by their addresses.
pub(crate) fn all() -> Vec<Scenario<Context>> {
    let mut all = mailtest::scenarios::all();
    all.extend(with_machines());
    all
}

/// Those that look into the machines, or do something to them.
fn with_machines() -> Vec<Scenario<Context>> {
    mailtest::scenarios! {
        "sign-up-over-imap", Machines, 30, accounts::sign_up_over_imap;
        "sign-up-over-smtp", Machines, 30, accounts::sign_up_over_smtp;
        "second-login", Machines, 30, accounts::second_login;
        "two-first-logins-at-once", Machines, 60, accounts::two_first_logins;
        "bad-localpart-refused", Machines, 60, accounts::bad_localpart, lane "logins";
        "short-password-refused", Machines, 60, accounts::short_password, lane "logins";
        "foreign-domain-refused", Machines, 60, accounts::foreign_domain, lane "logins";
        "nocreate-file", Machines, 60, accounts::nocreate_file;
        "reserved-names-refused", Machines, 90, accounts::reserved_names, lane "reserved names";
        "odd-passwords-tell-nothing", Machines, 120, accounts::odd_passwords, lane "logins";
        "doveauth-answers-only-dovecot", Machines, 60, accounts::doveauth_socket;
        "sign-up-on-a-full-disk", Machines, 120, accounts::full_disk;
        "invitations-let-people-in", Machines, 300, invitations::let_people_in;
        "closed-relay-takes-nobody", Machines, 600, closed::by_settings;
        "accounts-per-hour-are-limited", Machines, 180, invitations::limit;

        "cleartext-from-outside", Machines, 90, outside::cleartext;
        "from-of-two-senders", Machines, 60, disguise::two_senders;
        "cleartext-in-disguise", Machines, 60, disguise::cleartext;
        "mail-of-gateways-arrives", Machines, 60, disguise::gateways;

        "outside-unsigned", Machines, 60, outside::unsigned;
        "outside-signed-by-another-domain", Machines, 60, outside::other_domain;
        "outside-signed-with-a-wrong-key", Machines, 60, outside::wrong_key;
        "outside-body-altered", Machines, 60, outside::body_altered;
        "outside-signed-and-encrypted", Machines, 60, outside::delivered;
        "outside-key-records", Machines, 120, outside::key_records;

        "hostile-messages-are-bounded", Machines, 420, hostile::messages;
        "keys-never-answered-delay-nobody", Machines, 180, hostile::tarpits;

        "signed-mail-leaves-unchanged", Machines, 120, signed::leaves_unchanged;
        "bounce-from-the-other-relay", Machines, 120, bounce::unknown_user;
        "undeliverable-mail-comes-back", Machines, 90, delivery::undeliverable;
        "relays-verify-each-other", Machines, 90, delivery::names_verified;
        "mail-goes-to-public-addresses-only", Machines, 180, destinations::private_addresses;
        "no-mail-for-unix-users", Machines, 90, destinations::unix_users;
        "mail-of-the-host-reaches-its-operator", Machines, 120, destinations::mail_of_the_host;
        "burst-to-one-account", Machines, 240, burst::messages;
        "burst-to-extensions-of-one-address", Machines, 240, burst::address_extensions;
        "mailboxes-get-the-same-message-both-ways", Machines, 120, direct::same_message;
        "https-and-smtp-give-the-same-verdict", Machines, 180, mxdeliv::same_verdict;
        "mail-arrives-over-https", Machines, 180, mxdeliv::arrives;
        "requests-to-deliver-are-bounded", Machines, 120, mxdeliv::requests;
        "slow-clients-over-https-are-cut-off", Machines, 240, mxdeliv::slow_clients;
        "mail-leaves-over-https", Machines, 180, federation::https_only;
        "relays-deliver-over-https", Machines, 180, federation::between_relays;
        "messages-over-https-share-a-connection", Machines, 120, federation::one_connection;
        "mail-finds-its-servers", Machines, 120, exchangers::found;
        "mail-arrives-with-port-25-dropped", Machines, 180, dropped::port_25;
        "mail-arrives-with-port-443-dropped", Machines, 360, dropped::port_443;
        "one-family-of-addresses-does-not-answer", Machines, 180, families::dead_one;
        "mail-leaves-over-smtp-without-https", Machines, 480, federation::smtp_only;
        "https-is-tried-again-without-smtp", Machines, 180, federation::forgotten;
        "refused-over-https-comes-back", Machines, 120, federation::refused;
        "relay-without-port-25", Machines, 240, without_smtp::blocked;
        "tls-exceptions-by-domain", Machines, 180, without_smtp::tls_exceptions;
        "mail-without-tls-comes-back", Machines, 180, without_smtp::without_tls;
        "blocked-domains-exchange-no-mail", Machines, 300, rules::blocked;
        "only-allowed-domains-exchange-mail", Machines, 240, rules::allowed;
        "deliveries-are-counted-by-destination", Machines, 240, statistics::by_destination;
        "plain-postfix-writes-and-reads", Machines, 240, plain_postfix::mail_both_ways;
        "only-postfix-delivers-over-https", Machines, 90, federation::only_postfix;
        "delivery-over-https-restarts", Machines, 180, federation::restart;
        "dead-destination-is-suspended", Machines, 180, isolation::suspended;
        "dead-destinations-delay-nobody", Machines, 300, isolation::dead_destinations;
        "silent-servers-leave-room-for-relays", Machines, 240, isolation::silent_servers;
        "silent-servers-leave-room-for-mail-servers", Machines, 240, isolation::mail_server;
        "servers-that-fall-silent-leave-room", Machines, 300, isolation::fall_silent;
        "silent-servers-leave-room-for-large-mail", Machines, 180, large::leave_room;
        "full-queue-refuses-before-data", Machines, 300, full::refuses;

        "message-wakes-devices", Machines, 120, push::message_wakes_devices;
        "notification-server-in-trouble", Machines, 180, push::server_in_trouble;

        "every-imap-command", Machines, 120, commands::every_command;
        "one-account-is-bounded", Machines, 120, commands::bounded_account;
        "compress-where-wanted", Machines, 60, store::compress_where_wanted;
        "messages-are-stored-compressed", Machines, 60, store::stored_compressed;
        "idle-session-hibernates-and-wakes", Machines, 120, store::hibernation;
        "sessions-recorded-where-wanted", Machines, 60, store::recorded_where_wanted;

        "turn-relays", Machines, 60, turn::relays;
        "turn-relays-over-tcp", Machines, 60, turn::relays_over_tcp;
        "turn-refuses-connections", Machines, 60, turn::connections;
        "turn-refuses-other-credentials", Machines, 60, turn::credentials;
        "turn-refuses-private-peers", Machines, 60, turn::private_peers;
        "turn-relays-to-public-peers", Machines, 90, turn::public_peers;
        "turn-allocations-per-account", Machines, 90, turn::quota;

        "iroh-clients-meet", IrohRelay, 600, iroh::peers_meet;

        "quota-oldest-messages-go", Machines, 90, quota::oldest_go;
        "quota-messages-of-the-last-day-stay", Machines, 90, quota::last_day_stays;
        "expiry-of-messages-and-accounts", Machines, 60, expiry::removal;
        "expiry-without-remove", Machines, 60, expiry::dry_run;
        "clocks-of-expiry-and-report", Machines, 60, expiry::clocks;
        "account-counts-are-written", Machines, 60, expiry::counts;
        "mtail-counters", Machines, 90, counters::count;
        "mtail-restarts-without-loss", Machines, 180, counters::restarts;

        "listening-ports", Machines, 30, ports::listening;
        "dovecot-open-metrics", Machines, 90, metrics::dovecot;
        "own-services-metrics", Machines, 120, metrics::own_services;
        "storage-report", Machines, 90, metrics::storage_report;
        "dashboard-has-data", Machines, 300, metrics::has_data;

        "idle-connections-close-no-port", Machines, 300, front::idle_connections;
        "front-tells-addresses", Machines, 120, front::addresses;
        "websocket-tells-addresses", Machines, 120, websocket::addresses;
        "websocket-idle-memory", Machines, 300, websocket::idle_memory;

        "web-new-addresses-as-many-as-set", Machines, 120, web::new_addresses;
        "status-page-tells-the-state", Machines, 180, status_page::tells_the_state;
        "own-site-beside-the-relay", Machines, 60, network::own_site;
        "client-behind-a-firewall-with-443-only", Machines, 300, network::only_443;

        "acme-certificate-is-issued-and-used", Machines, 240, certificate::acme, lane "relay e";
        "import-keeps-the-acme-account", Machines, 180, certificate::account_imported, lane "relay e";
        "external-certificate-is-reloaded-on-change", Machines, 120, certificate::external;
        "external-certificate-comes-after-the-daemons", Machines, 300, certificate::late;

        "ip-only-address-cannot-be-forged", Machines, 60, ip_only::forged;
        "ip-only-has-no-zone", Machines, 60, ip_only::no_zone;

        "browser-pages-self-signed", Browser, 300, browser::pages_self_signed, lane "browser";
        "browser-pages-strict", Browser, 300, browser::pages_strict, lane "browser";
        "browser-languages", Browser, 120, browser::languages, lane "browser";
        "browser-invitation", Browser, 60, browser::invitation, lane "browser";
        "browser-without-scripts", Browser, 90, browser::without_scripts, lane "browser";
        "browser-keyboard", Browser, 60, browser::keyboard, lane "browser";
        "browser-content-policy", Browser, 60, browser::content_policy, lane "browser";
        "browser-finds-faults", Browser, 60, browser::finds_faults, lane "browser";
        "migrate-prints-options", Machines, 30, migrate::options;
        "operator-dns-check", Machines, 90, operator::dns_right;
        "operator-dns-check-finds-faults", Machines, 120, operator::dns_faults;
        "operator-dns-check-knows-old-answers", Machines, 90, operator::dns_old_answers;
        "operator-bans-an-account", Machines, 120, operator::account_ban;
        "operator-creates-and-deletes-an-account", Machines, 90, operator::account_life;
        "operator-looks-into-the-queue", Machines, 90, operator::queue;
        "operator-asks-for-the-status", IrohRelay, 600, operator::status;
        "status-shows-the-rest-when-inputs-are-damaged", Machines, 120, operator::damaged_inputs;
        "commands-say-why-they-fail", Machines, 180, failures::reasons;
        "doctor-finds-faults-of-the-host", Machines, 900, doctor::finds_faults_of_the_host;
        "doctor-finds-faults-in-dns", Machines, 600, doctor::finds_faults_in_dns;
        "doctor-sees-from-another-machine", Machines, 420, doctor::from_another_machine;
        "relays-are-tested-by-their-domains", IrohRelay, 900, live::tests;
        "delivery-time-is-measured", Machines, 180, live::ping;
        "commands-whose-output-nobody-reads", Machines, 60, surroundings::unread;
        "commands-at-any-terminal", Machines, 120, surroundings::terminals;
        "commands-on-a-full-disk-and-without-rights", Machines, 60, surroundings::disks_and_rights;
        "operator-probes-ports", Machines, 90, operator::ports;

        "filter-killed-within-a-message", Machines, 120, kill::filter_within_a_message;
        "incoming-filter-killed-within-a-message", Machines, 180, kill::incoming_filter_within_a_message;
        "postfix-stops-within-a-delivery", Machines, 120, kill::postfix_within_a_delivery;
        "doveauth-killed-while-users-log-in", Machines, 120, kill::doveauth;
        "doveauth-hangs-and-no-password-is-wrong", Machines, 60, kill::doveauth_hangs;
        "dictionaries-killed-while-users-log-in", Machines, 120, kill::dictionaries;
        "newemail-killed", Machines, 60, kill::newemail;
        "services-killed-while-people-write", Machines, 420, kill::all_while_people_write;

        "switch-under-load", Machines, 300, switch::settings;
        "dovecot-reload-delivers-once", Machines, 180, switch::reload;

        "backup-and-restore", Machines, 240, backup::restore;
        "backup-with-restic-and-a-lost-relay", Machines, 420, backup::restic::lost_relay;
        "import-over-ssh-and-the-way-back", Machines, 360, backup::import::there_and_back;
        "move-in-from-the-reference", Machines, 240, backup::move_in;
        "reboot-keeps-the-queue", Machines, 300, reboot::keeps_the_queue;

        "local-processes-reach-what-they-need", Machines, 180, inside::processes;
        "rendered-files-are-accepted", Machines, 120, configuration::accepted;
        "units-are-sandboxed", Machines, 120, configuration::sandboxed;

        // Looks at what all others have left in the logs.
        "logs-name-nobody", Machines, 900, privacy::nobody_named;
    }
}

#[cfg(test)]
mod tests {
    use mailtest::run::chosen;

    use super::*;

    /// Those tests run elsewhere: what they ask for has to be known to the program that they run.
    #[test]
    fn tests_in_virtual_machines_play_scenarios_that_are_here() {
        let file = crate::project::root().join("tests/vm/scenarios.json");
        let tests: std::collections::BTreeMap<String, Vec<String>> =
            serde_json::from_slice(&std::fs::read(file).unwrap()).unwrap();
        assert!(!tests.is_empty());
        let all = mailtest::scenarios::all::<mailtest::Context>();
        for (test, names) in tests {
            let played = chosen(&all, &names);
            let played: Vec<&str> = played.iter().map(|scenario| scenario.name).collect();
            let mut asked: Vec<&str> = names.iter().map(String::as_str).collect();
            // Filters also choose scenarios with longer names.
            asked.sort_by_key(|name| played.iter().position(|other| other == name));
            assert_eq!(played, asked, "tests/vm/{test}.nix");
        }
    }

    #[test]
    fn names_are_unique_and_made_for_filters() {
        let all = all();
        let mut names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
        assert!(names.iter().all(|name| !name.contains(' ')));
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), all.len());
    }
}
