use super::*;

/// Every key of the versions 1.0 to 1.12, also the removed ones, with a value that is not its default.
const KEYS: &[(&str, &str)] = &[
    ("mail_domain", "chat.example.org"),
    ("max_user_send_per_minute", "61"),
    ("max_user_send_burst_size", "11"),
    ("max_mailbox_size", "501M"),
    ("max_message_size", "31457281"),
    ("delete_mails_after", "21"),
    ("delete_large_after", "8"),
    ("delete_inactive_users_after", "91"),
    ("delete_accounts_after", "91"),
    ("username_min_length", "8"),
    ("username_max_length", "10"),
    ("password_min_length", "10"),
    ("passthrough_senders", "a@example.org"),
    ("passthrough_recipients", "@example.org"),
    ("max_load_1m", "6"),
    ("min_available_memory", "201M"),
    ("min_free_disk_space", "2G"),
    ("max_imap_connections", "10001"),
    ("max_smtp_connections", "1001"),
    ("tls_external_cert_and_key", "/a /b"),
    ("www_folder", "www"),
    ("disable_ipv6", "true"),
    ("acme_email", "a@example.org"),
    ("iroh_relay", ""),
    ("mtail_address", "192.0.2.1"),
    ("imap_rawlog", "true"),
    ("imap_compress", "true"),
    ("privacy_postal", "a"),
    ("privacy_mail", "a@example.org"),
    ("privacy_pdo", "a"),
    ("privacy_supervisor", "a"),
    ("mailboxes_dir", "/srv/mail"),
    ("filtermail_smtp_port", "1"),
    ("filtermail_smtp_port_incoming", "2"),
    ("filtermail_http_port_incoming", "3"),
    ("filtermail_lmtp_port_transport", "4"),
    ("postfix_reinject_port", "5"),
    ("postfix_reinject_port_incoming", "6"),
    ("turn_socket_path", "/run/a"),
    ("passdb_path", "/a"),
];

fn setting((key, value): (&str, &str)) -> Setting {
    Setting {
        key: key.to_owned(),
        value: value.to_owned(),
        line: 1,
    }
}

#[test]
fn every_key_gives_an_option_or_a_reason() {
    let domain = setting(("mail_domain", "chat.example.org"));
    for key in KEYS {
        let given = if key.0 == "mail_domain" {
            vec![domain.clone()]
        } else {
            vec![domain.clone(), setting(*key)]
        };
        let migrated = migrate(&given).unwrap();
        assert_eq!(migrated.unknown, [""; 0], "{key:?}");
        assert_eq!(migrated.defaults, [""; 0], "{key:?}");
        let reasons = migrated.without.iter().filter(|(_, reason)| !reason.is_empty());
        // `enable` and `domain` are always there.
        let found = migrated.options.len() - 2 + reasons.count();
        assert!(found > 0 || key.0 == "mail_domain", "{key:?}");
    }
    let untested: Vec<_> = RULES
        .iter()
        .map(|(name, ..)| *name)
        .filter(|name| !KEYS.iter().any(|(key, _)| key == name))
        .collect();
    assert_eq!(untested, [""; 0]);
}

#[test]
fn a_web_site_that_is_switched_off_is_no_folder() {
    let given = [("mail_domain", "chat.example.org"), ("www_folder", "disabled")].map(setting);
    let migrated = migrate(&given).unwrap();
    assert_eq!(migrated.without, [("www_folder".to_owned(), WEBSITE)]);
    assert_eq!(migrated.options.len(), 2);
}
