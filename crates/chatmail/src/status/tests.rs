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
        queue: Some(Queue {
            messages: 2,
            deferred: 1,
        }),
        destinations: Some(Report::read(&settings, &[waiting]).unwrap()),
        accounts: Some(Accounts {
            total: 123_456,
            active_1_day: 12_345,
            active_30_days: 99_999,
        }),
        certificate_days: Some(75),
        last_expiry: None,
        pending_notifications: None,
        disk_free: Some(33_000_000_000),
        registration: Some(
            "by invitation: 1 valid invitation(s) for 92 account(s), 8 of 8 account(s) in the last hour"
                .to_owned(),
        ),
        attention: vec![
            "newemail.service is failed; see `journalctl -u newemail.service`".to_owned(),
            "clients do not trust the certificate: invalid peer certificate: UnknownIssuer".to_owned(),
        ],
    }
}

#[test]
fn the_status_fits_80_columns() {
    let text = sample().text();
    crate::answer::human::check("status", &text);
}

/// What each input is called in the line about it.
fn named(attention: &[String], what: &str) -> bool {
    attention.iter().any(|line| line.contains(what))
}

#[test]
fn whatever_cannot_be_read_is_named_and_the_rest_is_shown() {
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("../../../chatmail-core/testdata/settings.json");
    let mut settings = Settings::parse(text, "sample".as_ref()).unwrap();
    let missing = dir.path().join("missing");
    let damaged = dir.path().join("damaged");
    std::fs::write(&damaged, "{").unwrap();
    settings.registration.mode = RegistrationMode::Invitation;
    settings.registration.directory.clone_from(&missing);
    settings.registration.nocreate_files.clear();
    settings.accounts.max_load_1m = 1e9;
    settings.accounts.min_memory_available = 0;
    settings.mailboxes.directory.clone_from(&missing);
    settings.push.queue_dir.clone_from(&damaged);
    settings.filtermail.destinations_file = damaged;
    let status = look(&settings);
    for what in [
        "cannot use the figures in",
        "cannot list the invitations in",
        "cannot list the mail store",
        "cannot list the pending notifications in",
        "cannot read the free space of",
        // Nothing of a relay runs where this test runs.
        "cannot get the certificate from port 993",
    ] {
        assert!(named(&status.attention, what), "{what}: {:?}", status.attention);
    }
    let text = status.text();
    for name in [
        "accounts",
        "registration",
        "certificate",
        "notifications",
        "disk",
        "destinations",
    ] {
        assert!(text.contains(&format!("\n{name:15} unknown\n")), "{name}: {text}");
    }
    assert!(
        text.contains("ATTENTION") && !text.contains("All is well"),
        "{text}"
    );

    // A folder in place of the file, and one that is too large.
    settings.filtermail.destinations_file = dir.path().to_owned();
    assert!(named(&look(&settings).attention, "cannot read "));
}

#[test]
fn a_damaged_account_hides_no_other() {
    let dir = tempfile::tempdir().unwrap();
    let text = include_str!("../../../chatmail-core/testdata/settings.json");
    let mut settings = Settings::parse(text, "sample".as_ref()).unwrap();
    settings.mailboxes.directory = dir.path().to_owned();
    for name in ["someone01", "someone02"] {
        let account = dir.path().join(format!("{name}@chat.example.org"));
        std::fs::create_dir(&account).unwrap();
        std::fs::write(account.join("password"), "x").unwrap();
    }
    // A link to itself cannot be followed.
    let damaged = dir.path().join("someone03@chat.example.org");
    std::fs::create_dir(&damaged).unwrap();
    std::os::unix::fs::symlink("password", damaged.join("password")).unwrap();
    let mut attention = Attention::default();
    let accounts = accounts(&settings, &mut attention).unwrap();
    assert_eq!(accounts.total, 2);
    assert!(
        named(&attention.0, "cannot read 1 account(s), one of them someone03@"),
        "{:?}",
        attention.0
    );
}
