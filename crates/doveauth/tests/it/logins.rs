//! Logins and the rules for new accounts.

use std::fs;

use chatmail_core::account::PASSWORD_FILE;

use crate::relay::{DOMAIN, Relay};

const PASSWORD: &str = "correct-$horse\"\\é";

/// Of `correcthorse`, by `doveadm pw`.
const SHA512_CRYPT: &str = include_str!("../../../chatmail-core/testdata/sha512-crypt");

fn user(name: &str) -> String {
    format!("{name}@{DOMAIN}")
}

#[test]
fn the_first_login_creates_the_account_and_its_password_stays() {
    let relay = Relay::new();
    let doveauth = relay.doveauth();
    let user = user("abc.d-_09");
    assert_eq!(doveauth.login(&user, PASSWORD), "ok");
    doveauth.wait_for_line(&format!(" INFO Created address: {user}"));
    let account = relay.account(&user);
    assert!(account.enforces_e2ee());
    assert!(
        account
            .password_hash()
            .unwrap()
            .unwrap()
            .starts_with("{ARGON2ID}$")
    );
    for _ in 0..2 {
        assert_eq!(doveauth.login(&user, PASSWORD), "ok");
        assert_eq!(doveauth.login(&user, "correct-$horse"), "mismatch");
        assert_eq!(doveauth.login(&user, ""), "mismatch");
    }
    let (code, users) = doveauth.try_request("GET /users", b"").unwrap();
    assert_eq!((code, users), (200, format!("{user}\n")));
    assert_eq!(doveauth.lines(), Vec::<String>::new());
}

#[test]
fn refused_accounts_leave_the_log_line_and_nothing_else() {
    let mut relay = Relay::new();
    let nocreate = relay.settings.registration.nocreate_files.clone();
    let doveauth = relay.doveauth();
    let long = "x".repeat(65);
    for (user, password, line) in [
        (
            user("abcdefghi"),
            "12345678",
            "Password needs to be at least 9 characters long",
        ),
        (
            user("abcdefgh"),
            PASSWORD,
            "localpart abcdefgh has to be between 9 and 9 chars long",
        ),
        (
            user("abcdefghij"),
            PASSWORD,
            "localpart abcdefghij has to be between 9 and 9 chars long",
        ),
        (
            user("ABCDEFGHI"),
            PASSWORD,
            "localpart 'ABCDEFGHI' contains invalid characters",
        ),
        (
            user("abc+efghi"),
            PASSWORD,
            "localpart 'abc+efghi' contains invalid characters",
        ),
        (
            "abcdefghi@other.example.org".to_owned(),
            PASSWORD,
            "address belongs to another domain",
        ),
        (
            "abcdefghi".to_owned(),
            PASSWORD,
            "not an address of the form localpart@domain",
        ),
        (
            user("../abcdef"),
            PASSWORD,
            "not an address of the form localpart@domain",
        ),
        (
            user("abcdefgh."),
            PASSWORD,
            "localpart begins or ends with a dot, or has two in a row",
        ),
        (
            user("webmaster"),
            PASSWORD,
            "localpart 'webmaster' is reserved for the operator",
        ),
        (
            user(&long),
            PASSWORD,
            "not an address of the form localpart@domain",
        ),
    ] {
        assert_eq!(doveauth.login(&user, password), "mismatch", "{user}");
        doveauth.wait_for_line(&format!(" WARN {line}"));
    }

    for file in &nocreate {
        fs::write(file, "").unwrap();
        assert_eq!(doveauth.login(&user("abcdefghi"), PASSWORD), "mismatch");
        doveauth.wait_for_line(&format!(
            " WARN blocked account creation because '{}' exists.",
            file.display()
        ));
        fs::remove_file(file).unwrap();
    }

    drop(doveauth);
    relay.settings.accounts.min_disk_free = u64::MAX;
    let doveauth = relay.doveauth();
    assert_eq!(doveauth.login(&user("abcdefghi"), PASSWORD), "mismatch");
    let line = doveauth.wait_for_line("MB");
    assert!(line.contains(" WARN registration rejected: free disk "), "{line}");

    assert_eq!(
        fs::read_dir(&relay.settings.mailboxes.directory).unwrap().count(),
        0
    );
}

#[test]
fn accounts_that_exist_are_measured_against_no_rule() {
    let relay = Relay::new();
    let old = "X+y@elsewhere.example.org";
    relay.account(old).create(SHA512_CRYPT.trim_end()).unwrap();
    fs::write(&relay.settings.registration.nocreate_files[0], "").unwrap();
    let doveauth = relay.doveauth();
    assert_eq!(doveauth.login(old, "correcthorse"), "ok");
}

#[test]
fn sha512_crypt_is_rewritten_at_login_and_the_day_of_the_last_login_kept() {
    let relay = Relay::new();
    let user = user("abcdefghi");
    let account = relay.account(&user);
    account.create(SHA512_CRYPT.trim_end()).unwrap();
    account.set_last_login(std::time::SystemTime::now()).unwrap();
    let day = account.last_login().unwrap();
    let doveauth = relay.doveauth();
    assert_eq!(doveauth.login(&user, "wronghorse"), "mismatch");
    assert!(
        account
            .password_hash()
            .unwrap()
            .unwrap()
            .starts_with("{SHA512-CRYPT}")
    );
    assert_eq!(doveauth.login(&user, "correcthorse"), "ok");
    assert!(
        account
            .password_hash()
            .unwrap()
            .unwrap()
            .starts_with("{ARGON2ID}$")
    );
    assert_eq!(account.last_login().unwrap(), day);
    assert_eq!(doveauth.login(&user, "correcthorse"), "ok");
    assert_eq!(doveauth.login(&user, "wronghorse"), "mismatch");
}

#[test]
fn what_is_not_a_hash_lets_nobody_in_and_is_no_wrong_password_either() {
    let relay = Relay::new();
    let doveauth = relay.doveauth();
    let user = user("abcdefghi");
    let account = relay.account(&user);
    for stored in [
        "",
        "\n",
        "correcthorse",
        "{PLAIN}correcthorse",
        "{ARGON2ID}",
        "{SHA512-CRYPT}x",
    ] {
        account.create("x").unwrap();
        fs::write(account.dir().join(PASSWORD_FILE), stored).unwrap();
        assert_eq!(doveauth.login(&user, "correcthorse"), "tempfail", "{stored:?}");
        assert_eq!(doveauth.login(&user, ""), "tempfail", "{stored:?}");
    }
    let lines = doveauth.lines().join("\n");
    assert!(lines.contains("ERROR "), "{lines}");
    assert!(
        !lines.contains("correcthorse") && !lines.contains("abcdefghi"),
        "{lines}"
    );
}

#[test]
fn a_remembered_login_ends_with_its_password_file() {
    let relay = Relay::new();
    let doveauth = relay.doveauth();
    let user = user("abcdefghi");
    let account = relay.account(&user);
    assert_eq!(doveauth.login(&user, PASSWORD), "ok");
    assert_eq!(doveauth.login(&user, PASSWORD), "ok");
    account.set_password_hash(SHA512_CRYPT.trim_end()).unwrap();
    assert_eq!(doveauth.login(&user, PASSWORD), "mismatch");
    assert_eq!(doveauth.login(&user, "correcthorse"), "ok");
    fs::write(&relay.settings.registration.nocreate_files[0], "").unwrap();
    fs::remove_file(account.dir().join(PASSWORD_FILE)).unwrap();
    assert_eq!(doveauth.login(&user, "correcthorse"), "mismatch");
}

#[test]
fn logins_at_the_same_moment_create_once() {
    let relay = Relay::new();
    // Two processes, as during a restart.
    let services = [relay.doveauth(), relay.doveauth()];
    let user = user("abcdefghi");
    let outcomes: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|number| {
                let (service, user) = (&services[number % 2], &user);
                let password = format!("{PASSWORD}{}", number % 4);
                scope.spawn(move || (number % 4, service.login(user, &password)))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let winners: Vec<_> = outcomes
        .iter()
        .filter(|(_, outcome)| outcome == "ok")
        .map(|(password, _)| password)
        .collect();
    assert_eq!(winners.len(), 4, "{outcomes:?}");
    assert!(
        winners.iter().all(|password| *password == winners[0]),
        "{outcomes:?}"
    );
    let created = services
        .iter()
        .flat_map(|service| {
            assert_eq!(service.login(&user, "anything else"), "mismatch");
            service.lines()
        })
        .filter(|line| line.contains("Created address"))
        .count();
    assert_eq!(created, 1);
}

#[test]
fn a_lock_that_somebody_keeps_is_a_temporary_failure() {
    let relay = Relay::new();
    let doveauth = relay.doveauth();
    let user = user("abcdefghi");
    let lock = relay.account(&user).try_lock().unwrap();
    assert!(lock.is_some());
    assert_eq!(doveauth.login(&user, PASSWORD), "tempfail");
    drop(lock);
    assert_eq!(doveauth.login(&user, PASSWORD), "ok");
}

#[test]
fn anything_but_a_login_is_refused() {
    let relay = Relay::new();
    let doveauth = relay.doveauth();
    let long = format!("a@b\n{}", "x".repeat(20_000));
    for (head, body, code) in [
        ("POST /auth", &b""[..], 400),
        ("POST /auth", b"a@b", 400),
        ("POST /auth", long.as_bytes(), 413),
        ("GET /auth", b"", 405),
        ("GET /", b"", 404),
    ] {
        assert_eq!(doveauth.try_request(head, body).unwrap().0, code, "{head}");
    }
}

/// Passwords are bytes, and names are addresses. No value of either makes the service fail, which Dovecot's script
/// would take for a service that is down.
#[test]
fn odd_passwords_and_names_are_answered_like_others() {
    let relay = Relay::new();
    let doveauth = relay.doveauth();
    let user = user("abcdefghi");
    let odd: [&[u8]; 5] = [
        b"\xff\xfe not UTF-8 \x80",
        b"with\nline feed",
        b"tab\t\x01\x7f\x1b[0m",
        "\u{202e}\u{feff}".as_bytes(),
        &[b'\x01'; 1024],
    ];
    for password in odd {
        let expected = if std::str::from_utf8(password).is_ok_and(|text| text.chars().count() >= 9) {
            "ok"
        } else {
            "mismatch"
        };
        assert_eq!(doveauth.login(&user, password), expected);
        if expected == "ok" {
            assert_eq!(doveauth.login(&user, password), "ok");
            assert_eq!(doveauth.login(&user, [password, b"x"].concat()), "mismatch");
            fs::remove_dir_all(relay.account(&user).dir()).unwrap();
        }
    }
    assert_eq!(doveauth.login(&user, PASSWORD), "ok");
    for known in [&user, &self::user("nobody123")] {
        for password in odd
            .into_iter()
            .take(1)
            .chain([&[b'\xff'; 9000][..], &[b'x'; 1025]])
        {
            assert_eq!(doveauth.login(known, password), "mismatch", "{known}");
        }
    }
    for name in [
        "",
        "abcdefghi",
        "abc\0efghi@chat.example.org",
        "a%u@chat.example.org",
        "abcdefghi*root@chat.example.org",
        "../../etc@chat.example.org",
        &format!("{}@chat.example.org", "a".repeat(9000)),
    ] {
        assert_eq!(doveauth.login(name, PASSWORD), "mismatch", "{name:?}");
    }
    assert_eq!(
        fs::read_dir(&relay.settings.mailboxes.directory).unwrap().count(),
        1
    );
}

/// Hashes of an older version of the relay, and hashes with other parameters of the same strength, stay.
#[test]
fn an_equally_strong_hash_is_not_rewritten() {
    let relay = Relay::new();
    let doveauth = relay.doveauth();
    let user = user("abcdefghi");
    let account = relay.account(&user);
    let stored = include_str!("../../../chatmail-core/testdata/argon2id").trim_end();
    account.create(stored).unwrap();
    assert_eq!(doveauth.login(&user, "correcthorse"), "ok");
    assert_eq!(account.password_hash().unwrap().as_deref(), Some(stored));
}

/// More first logins at once than may wait are told to come back, and not that their password is wrong; who is known
/// already gets in meanwhile.
#[test]
fn a_flood_of_first_logins_is_sent_away_and_known_ones_are_not() {
    let mut relay = Relay::new();
    relay.settings.doveauth.max_hashing = 2;
    let doveauth = relay.doveauth();
    let known = user("abcdefghi");
    assert_eq!(doveauth.login(&known, PASSWORD), "ok");
    let outcomes: Vec<Vec<String>> = std::thread::scope(|scope| {
        let flood: Vec<_> = (0..12)
            .map(|thread| {
                let doveauth = &doveauth;
                scope.spawn(move || {
                    (0..20)
                        .map(|number| doveauth.login(&user(&format!("n{thread:03}{number:05}")), PASSWORD))
                        .collect()
                })
            })
            .collect();
        for _ in 0..50 {
            assert_eq!(doveauth.login(&known, PASSWORD), "ok");
        }
        flood.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let outcomes: Vec<_> = outcomes.into_iter().flatten().collect();
    let count = |wanted: &str| outcomes.iter().filter(|outcome| *outcome == wanted).count();
    assert!(count("tempfail") > 0 && count("ok") > 0, "{outcomes:?}");
    assert_eq!(count("mismatch"), 0);
    // Logins that failed leave nothing.
    let folders = fs::read_dir(&relay.settings.mailboxes.directory).unwrap().count();
    assert_eq!(folders, 1 + count("ok"));
    let lines = doveauth.lines();
    let said = lines
        .iter()
        .filter(|line| line.contains("too many logins are waiting"))
        .count();
    assert_eq!(said, 1, "one line for the flood");
}
