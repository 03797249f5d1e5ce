//! Registration that is closed, by invitation, or limited.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::SystemTime;

use chatmail_core::registration::{Invitation, Register, Token};
use chatmail_core::settings::RegistrationMode;

use crate::relay::{DOMAIN, Relay};

const SECRET: &str = "correcthorse";

fn relay(mode: RegistrationMode, max_per_hour: Option<u32>) -> Relay {
    let mut relay = Relay::new();
    relay.settings.registration.mode = mode;
    relay.settings.registration.max_per_hour = max_per_hour;
    relay
}

fn user(number: usize) -> String {
    format!("user{number:05}@{DOMAIN}")
}

/// An invitation, and passwords with its token.
fn invite(relay: &Relay, uses: u32, expires_in: u64) -> (Token, String) {
    let now = chatmail_core::unix_seconds(SystemTime::now());
    let token = Token::generate(&mut rand::rng());
    let invitation = Invitation::new(now, now + expires_in, uses);
    let register = Register::new(&relay.settings.registration);
    assert!(
        register
            .try_lock()
            .unwrap()
            .unwrap()
            .add(&token, &invitation)
            .unwrap()
    );
    let password = format!("{}{SECRET}", token.as_str());
    (token, password)
}

fn stored(relay: &Relay, token: &Token) -> Invitation {
    let register = Register::new(&relay.settings.registration);
    register.find(&token.id()).unwrap().unwrap()
}

#[test]
fn a_closed_relay_lets_only_known_users_in() {
    let mut relay = relay(RegistrationMode::Open, None);
    assert_eq!(relay.doveauth().login(&user(1), SECRET), "ok");
    relay.settings.registration.mode = RegistrationMode::Closed;
    let doveauth = relay.doveauth();
    assert_eq!(doveauth.login(&user(2), SECRET), "mismatch");
    doveauth.wait_for_line(" WARN blocked account creation because registration is closed.");
    assert_eq!(doveauth.login(&user(1), SECRET), "ok");
    assert!(!relay.account(&user(2)).dir().exists());
}

#[test]
fn a_first_login_needs_the_token_of_an_invitation() {
    let relay = relay(RegistrationMode::Invitation, None);
    let (token, password) = invite(&relay, 2, 3600);
    let doveauth = relay.doveauth();
    for wrong in [
        SECRET.to_owned(),
        format!("{}{SECRET}", Token::generate(&mut rand::rng()).as_str()),
        format!("x{password}"),
    ] {
        assert_eq!(doveauth.login(&user(1), &wrong), "mismatch");
        doveauth.wait_for_line(" WARN blocked account creation without an invitation.");
    }
    // Everybody who has the token would know such a password.
    let bare = format!("{}12345678", token.as_str());
    assert_eq!(doveauth.login(&user(1), &bare), "mismatch");
    doveauth.wait_for_line(" WARN Password needs to be at least 9 characters long");

    assert_eq!(doveauth.login(&user(1), &password), "ok");
    assert_eq!(stored(&relay, &token).used, 1);
    // Later logins do not count, and the password is the whole of it.
    for _ in 0..2 {
        assert_eq!(doveauth.login(&user(1), &password), "ok");
        assert_eq!(doveauth.login(&user(1), SECRET), "mismatch");
    }
    assert_eq!(doveauth.login(&user(2), &password), "ok");
    assert_eq!(doveauth.login(&user(3), &password), "mismatch");
    doveauth.wait_for_line(" WARN blocked account creation because the invitation is used up.");
    let (_, old) = invite(&relay, 2, 0);
    assert_eq!(doveauth.login(&user(3), &old), "mismatch");
    doveauth.wait_for_line(" WARN blocked account creation because the invitation has expired.");
    // A revoked invitation leaves its accounts.
    let register = Register::new(&relay.settings.registration);
    let locked = register.try_lock().unwrap().unwrap();
    locked.remove(&token.id()).unwrap();
    drop(locked);
    assert_eq!(doveauth.login(&user(3), &password), "mismatch");
    assert_eq!(doveauth.login(&user(1), &password), "ok");
    for line in doveauth.lines() {
        assert!(!line.contains(token.as_str()), "{line}");
    }
}

#[test]
fn an_open_relay_takes_a_token_for_a_part_of_the_password() {
    let relay = relay(RegistrationMode::Open, None);
    let (token, password) = invite(&relay, 1, 3600);
    let doveauth = relay.doveauth();
    for number in 0..3 {
        assert_eq!(doveauth.login(&user(number), &password), "ok");
    }
    assert_eq!(stored(&relay, &token).used, 0);
}

#[test]
fn logins_at_the_same_moment_use_an_invitation_once() {
    let relay = relay(RegistrationMode::Invitation, None);
    // Two processes, as during a restart.
    let services = [relay.doveauth(), relay.doveauth()];
    for round in 0..3 {
        let (token, password) = invite(&relay, 1, 3600);
        let created = AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for number in 0..8 {
                let (services, password, created) = (&services, &password, &created);
                scope.spawn(move || {
                    let user = user(round * 100 + number);
                    let outcome = services[number % 2].login(&user, password);
                    assert!(outcome == "ok" || outcome == "mismatch", "{outcome}");
                    created.fetch_add(usize::from(outcome == "ok"), Ordering::SeqCst);
                });
            }
        });
        assert_eq!(created.load(Ordering::SeqCst), 1);
        assert_eq!(stored(&relay, &token).used, 1);
    }
    let accounts = fs::read_dir(&relay.settings.mailboxes.directory).unwrap();
    assert_eq!(accounts.count(), 3);
}

#[test]
fn the_limit_of_an_hour_outlives_a_restart() {
    let relay = relay(RegistrationMode::Open, Some(3));
    let doveauth = relay.doveauth();
    for number in 0..2 {
        assert_eq!(doveauth.login(&user(number), SECRET), "ok");
    }
    doveauth.kill_and_restart(&relay);
    assert_eq!(doveauth.login(&user(2), SECRET), "ok");
    assert_eq!(doveauth.login(&user(3), SECRET), "mismatch");
    doveauth.wait_for_line(" WARN blocked account creation because 3 accounts were created within an hour.");
    for number in 0..3 {
        assert_eq!(doveauth.login(&user(number), SECRET), "ok");
    }
}

#[test]
fn a_registration_that_cannot_be_read_lets_nobody_in_and_says_so() {
    let relay = relay(RegistrationMode::Invitation, None);
    let (token, password) = invite(&relay, 1, 3600);
    let path = relay.settings.registration.directory.join(token.id().as_str());
    fs::write(path, "{}").unwrap();
    let doveauth = relay.doveauth();
    assert_eq!(doveauth.login(&user(1), &password), "tempfail");
    assert!(!relay.account(&user(1)).dir().exists());
}

/// Each use is counted exactly once, whenever the process is killed.
#[test]
fn a_killed_process_counts_right() {
    const ROUNDS: usize = 12;
    let relay = relay(RegistrationMode::Invitation, Some(1_000_000));
    let (token, password) = invite(&relay, 100_000, 3600);
    let doveauth = relay.doveauth();
    let next = AtomicUsize::new(0);
    let mut accepted = HashMap::new();
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        let (answered, answers) = std::sync::mpsc::channel();
        let created: Vec<Vec<_>> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..4)
                .map(|_| {
                    let (doveauth, next, stop, password) = (&doveauth, &next, &stop, &password);
                    let answered = answered.clone();
                    scope.spawn(move || {
                        let mut created = Vec::new();
                        while !stop.load(Ordering::SeqCst) {
                            let user = user(next.fetch_add(1, Ordering::SeqCst));
                            if doveauth
                                .try_login(&user, password)
                                .is_ok_and(|outcome| outcome == "ok")
                            {
                                created.push(user);
                                answered.send(()).unwrap();
                            }
                        }
                        created
                    })
                })
                .collect();
            for _ in 0..3 + round {
                answers.recv_timeout(crate::relay::PATIENCE).unwrap();
            }
            stop.store(true, Ordering::SeqCst);
            doveauth.kill_and_restart(&relay);
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        accepted.extend(created.into_iter().flatten().map(|user| (user, ())));
    }
    // The last process has settled what the one before left.
    assert_eq!(doveauth.login(&user(99_999), &password), "ok");
    let accounts = fs::read_dir(&relay.settings.mailboxes.directory)
        .unwrap()
        .filter(|entry| entry.as_ref().unwrap().path().join("password").exists())
        .count();
    let invitation = stored(&relay, &token);
    assert_eq!(invitation.pending, None);
    assert_eq!(usize::try_from(invitation.used).unwrap(), accounts);
    assert!(accounts > accepted.len());
}
