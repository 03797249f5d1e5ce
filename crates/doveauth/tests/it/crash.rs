//! SIGKILL at any moment.

use std::collections::HashMap;
use std::fs;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::mpsc;

use chatmail_core::account::PASSWORD_FILE;

use crate::relay::{DOMAIN, PATIENCE, Relay};

const ROUNDS: usize = 25;
const CLIENTS: usize = 4;

/// Accounts are complete or do not exist, and what was answered with "ok" stays.
#[test]
fn a_killed_process_leaves_no_half_account() {
    let relay = Relay::new();
    // Migrated accounts, so that the replacement of hashes is interrupted too.
    let moving: Vec<_> = (0..200).map(|n| format!("old{n:06}@{DOMAIN}")).collect();
    for user in &moving {
        relay
            .account(user)
            .create(include_str!("../../../chatmail-core/testdata/sha512-crypt").trim_end())
            .unwrap();
    }
    let doveauth = relay.doveauth();
    let next = AtomicUsize::new(0);
    let mut accepted = HashMap::new();
    for round in 0..ROUNDS {
        let stop = AtomicBool::new(false);
        let (answered, answers) = mpsc::channel();
        let news: Vec<Vec<_>> = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|_| {
                    let (doveauth, next, stop, moving) = (&doveauth, &next, &stop, &moving);
                    let answered = answered.clone();
                    scope.spawn(move || {
                        let mut accepted = Vec::new();
                        while !stop.load(Ordering::SeqCst) {
                            let number = next.fetch_add(1, Ordering::SeqCst);
                            let (user, password) = if number % 2 == 0 {
                                (
                                    moving[number / 2 % moving.len()].clone(),
                                    "correcthorse".to_owned(),
                                )
                            } else {
                                (format!("new{number:06}@{DOMAIN}"), format!("password{number}"))
                            };
                            if doveauth
                                .try_login(&user, password.as_str())
                                .is_ok_and(|outcome| outcome == "ok")
                            {
                                accepted.push((user, password));
                                answered.send(()).unwrap();
                            }
                        }
                        accepted
                    })
                })
                .collect();
            // In the middle of other logins, and in every round after another number of them.
            for _ in 0..CLIENTS + round {
                answers.recv_timeout(PATIENCE).unwrap();
            }
            stop.store(true, Ordering::SeqCst);
            doveauth.kill_and_restart(&relay);
            clients.into_iter().map(|client| client.join().unwrap()).collect()
        });
        accepted.extend(news.into_iter().flatten());
        check(&relay);
    }
    assert!(
        accepted.keys().any(|user| user.starts_with("new"))
            && accepted.keys().any(|user| user.starts_with("old")),
        "the test did not reach both kinds of work"
    );
    for (user, password) in &accepted {
        assert_eq!(doveauth.login(user, password.as_str()), "ok", "{user}");
    }
}

fn check(relay: &Relay) {
    for entry in fs::read_dir(&relay.settings.mailboxes.directory).unwrap() {
        let entry = entry.unwrap();
        let account = relay.account(entry.file_name().to_str().unwrap());
        if !account.dir().join(PASSWORD_FILE).exists() {
            continue;
        }
        assert!(account.enforces_e2ee(), "{entry:?} takes cleartext");
        let stored = account.password_hash().unwrap().unwrap();
        let whole = match stored.split_once('}') {
            Some(("{ARGON2ID", hash)) => hash.rsplit('$').next().unwrap().len() == 43,
            Some(("{SHA512-CRYPT", hash)) => hash.rsplit('$').next().unwrap().len() == 86,
            _ => false,
        };
        assert!(whole, "{entry:?} has the hash {stored:?}");
    }
}
