use super::*;

fn sample() -> Status {
    let text = include_str!("../../../chatmail-core/testdata/settings.json");
    let mut settings = Settings::parse(text, "sample".as_ref()).unwrap();
    settings.filtermail.destinations_file = "/nonexistent/destinations.json".into();
    let waiting = queue::Destination {
        domain: "down.example".to_owned(),
        recipients: 2,
        reasons: std::collections::BTreeMap::new(),
    };
    Status {
        domain: settings.domain.clone(),
        versions: Versions {
            chatmail: "0.1.0",
            revision: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
            postfix: Some("3.11.1".to_owned()),
            dovecot: Some("2.4.1-4 (7d8c0e5759)".to_owned()),
        },
        units: vec![Unit {
            name: "newemail.service".to_owned(),
            state: "failed".to_owned(),
            oneshot: false,
            ended: None,
        }],
        missing_ports: Vec::new(),
        connections: Connections {
            imap: 12345,
            submission: 678,
            port_25: 90,
            imap_processes: 2345,
        },
        federation: Federation {
            allow: Some(12),
            block: 3,
            out: ways(true, true),
            r#in: ways(true, true),
        },
        queue: Queue {
            messages: 2,
            deferred: 1,
        },
        destinations: Report::read(&settings, &[waiting]).unwrap(),
        accounts: Accounts {
            total: 123_456,
            active_1_day: 12_345,
            active_30_days: 99_999,
        },
        certificate_days: Some(75),
        last_expiry: None,
        pending_notifications: None,
        disk_free: Some(33_000_000_000),
        registration:
            "by invitation: 1 valid invitation(s) for 92 account(s), 8 of 8 account(s) in the last hour"
                .to_owned(),
        attention: vec![
            "newemail.service is failed; see `journalctl -u newemail.service`".to_owned(),
            "clients do not trust the certificate: invalid peer certificate: UnknownIssuer".to_owned(),
        ],
    }
}

#[test]
fn the_status_fits_80_columns() {
    let text = sample().text();
    assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
    insta::assert_snapshot!(text);
}
