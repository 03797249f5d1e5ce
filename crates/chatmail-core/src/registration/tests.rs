use std::cell::Cell;
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use proptest::prelude::*;

use super::*;
use crate::settings::{Registration, RegistrationMode};

const NOW: u64 = 1_800_000_000;
const DAY: u64 = 24 * 60 * 60;

struct Folder {
    dir: tempfile::TempDir,
    settings: Registration,
}

impl Folder {
    fn new(mode: RegistrationMode, max_per_hour: Option<u32>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let settings = Registration {
            mode,
            max_per_hour,
            nocreate_files: vec![dir.path().join("nocreate")],
            directory: dir.path().join("registration"),
        };
        fs::create_dir(&settings.directory).unwrap();
        Self { dir, settings }
    }

    fn register(&self) -> Register {
        Register::new(&self.settings)
    }

    fn locked(&self) -> Locked {
        self.register().try_lock().unwrap().unwrap()
    }

    fn invite(&self, uses: u32, expires: u64) -> Token {
        let token = Token::generate(&mut rand::rng());
        assert!(self.locked().add(&token, &invitation(uses, expires)).unwrap());
        token
    }
}

fn invitation(uses: u32, expires: u64) -> Invitation {
    Invitation {
        created: NOW,
        expires,
        uses,
        used: 0,
        pending: None,
        note: None,
    }
}

#[test]
fn tokens_are_parsed_and_split_from_passwords() {
    let token = Token::generate(&mut rand::rng());
    assert_eq!(token.as_str().len(), TOKEN_LENGTH);
    assert!(Token::parse(token.as_str()) == Some(token.clone()));
    let password = format!("{}abc", token.as_str());
    let (found, rest) = Token::split(password.as_bytes()).unwrap();
    assert!(found == token);
    assert_eq!(rest, b"abc");
    for bad in [
        "",
        "short",
        "0123456789012345678901x",
        "012345678901234567890/",
        "01234567890123456789é",
    ] {
        assert!(Token::parse(bad).is_none(), "{bad}");
    }
    assert!(Token::split(&[0xff; 30]).is_none());
    // By sha256sum.
    let id = Token::parse("AAAAAAAAAAAAAAAAAAAAAA").unwrap().id();
    assert_eq!(id.to_string(), "8a5bdb4c");
    assert!(!id.as_str().contains("AAAA"));
}

#[test]
fn closed_relays_say_why() {
    for (mode, expected) in [
        (RegistrationMode::Open, Ok(())),
        (RegistrationMode::Closed, Err(Denied::Closed)),
        (RegistrationMode::Invitation, Err(Denied::Uninvited)),
    ] {
        let folder = Folder::new(mode, None);
        assert_eq!(folder.register().check(None, NOW).unwrap(), expected);
        let file = folder.dir.path().join("nocreate");
        fs::write(&file, "").unwrap();
        assert_eq!(
            folder.register().check(None, NOW).unwrap(),
            Err(Denied::ClosedByFile(file))
        );
    }
}

#[test]
fn an_invitation_is_for_so_many_accounts_and_so_long() {
    let folder = Folder::new(RegistrationMode::Invitation, None);
    let token = folder.invite(2, NOW + DAY);
    let create = |address: &str, now| {
        folder
            .locked()
            .create(Some(&token), address, now, |_| true, || Ok(()))
            .unwrap()
    };
    assert_eq!(folder.register().check(Some(&token), NOW).unwrap(), Ok(()));
    assert_eq!(create("a@b.c", NOW), Ok(()));
    assert_eq!(create("b@b.c", NOW + DAY), Err(Denied::Expired));
    assert_eq!(create("b@b.c", NOW + DAY - 1), Ok(()));
    assert_eq!(create("c@b.c", NOW), Err(Denied::UsedUp));
    let stranger = Token::generate(&mut rand::rng());
    assert_eq!(
        folder.register().check(Some(&stranger), NOW).unwrap(),
        Err(Denied::Uninvited)
    );
    folder.locked().remove(&token.id()).unwrap();
    assert_eq!(create("c@b.c", NOW), Err(Denied::Uninvited));
}

#[test]
fn files_hold_no_token_and_are_for_owner_and_group() {
    let folder = Folder::new(RegistrationMode::Invitation, Some(5));
    let token = folder.invite(2, NOW + DAY);
    let created = folder
        .locked()
        .create(Some(&token), "a@b.c", NOW, |_| true, || Ok(()));
    assert_eq!(created.unwrap(), Ok(()));
    let mut names = BTreeSet::new();
    for entry in fs::read_dir(&folder.settings.directory).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        assert!(
            !text.contains(token.as_str()) && !text.contains("a@b.c"),
            "{text}"
        );
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o640);
        names.insert(path.file_name().unwrap().to_str().unwrap().to_owned());
    }
    assert_eq!(
        names,
        BTreeSet::from(["created".to_owned(), token.id().as_str().to_owned()])
    );
}

#[test]
fn a_creation_that_fails_costs_nothing() {
    let folder = Folder::new(RegistrationMode::Invitation, Some(1));
    let token = folder.invite(1, NOW + DAY);
    let full = || Err(io::ErrorKind::StorageFull.into());
    for _ in 0..3 {
        let failed = folder
            .locked()
            .create(Some(&token), "a@b.c", NOW, |_| false, full);
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
    }
    let created = folder
        .locked()
        .create(Some(&token), "a@b.c", NOW, |_| true, || Ok(()));
    assert_eq!(created.unwrap(), Ok(()));
}

#[test]
fn the_limit_of_an_hour_moves_with_the_clock() {
    let folder = Folder::new(RegistrationMode::Open, Some(2));
    let create = |now| {
        folder
            .locked()
            .create(None, "a@b.c", now, |_| true, || Ok(()))
            .unwrap()
    };
    assert_eq!(create(NOW), Ok(()));
    assert_eq!(create(NOW + 30 * 60), Ok(()));
    assert_eq!(create(NOW + 59 * 60), Err(Denied::HourlyLimit(2)));
    assert_eq!(
        folder.register().check(None, NOW + 59 * 60).unwrap(),
        Err(Denied::HourlyLimit(2))
    );
    assert_eq!(create(NOW + 60 * 60), Ok(()));
    assert_eq!(create(NOW + 60 * 60), Err(Denied::HourlyLimit(2)));
    // The clock was wrong: it is set back by a day, or only by minutes.
    assert_eq!(create(NOW + 55 * 60), Err(Denied::HourlyLimit(2)));
    assert_eq!(create(NOW - DAY), Ok(()));
}

#[test]
fn the_number_of_invitations_is_bounded() {
    let folder = Folder::new(RegistrationMode::Invitation, None);
    // Written directly, because each is synced otherwise.
    for number in 0..MAX_INVITATIONS {
        let id = format!("{number:064x}");
        let expires = if number < 3 { NOW - 1 } else { NOW + DAY };
        let text = serde_json::to_string(&invitation(1, expires)).unwrap();
        fs::write(folder.settings.directory.join(id), text).unwrap();
    }
    for _ in 0..3 {
        folder.invite(1, NOW + DAY);
    }
    let token = Token::generate(&mut rand::rng());
    assert!(!folder.locked().add(&token, &invitation(1, NOW + DAY)).unwrap());
    assert_eq!(folder.register().list().unwrap().len(), MAX_INVITATIONS);
}

#[test]
fn a_lock_excludes_others_and_ends_with_its_holder() {
    let folder = Folder::new(RegistrationMode::Invitation, None);
    let locked = folder.locked();
    assert!(folder.register().try_lock().unwrap().is_none());
    drop(locked);
    assert!(folder.register().try_lock().unwrap().is_some());
}

#[test]
fn a_file_that_is_not_an_invitation_is_named() {
    let folder = Folder::new(RegistrationMode::Invitation, None);
    let token = folder.invite(1, NOW + DAY);
    let path = folder.settings.directory.join(token.id().as_str());
    fs::write(&path, "{}").unwrap();
    let error = folder.register().check(Some(&token), NOW).unwrap_err();
    assert!(error.to_string().contains(&*path.to_string_lossy()), "{error}");
    // Others are ignored, such as what a crash leaves.
    fs::remove_file(&path).unwrap();
    fs::write(folder.settings.directory.join(".new-x"), "{").unwrap();
    assert_eq!(folder.register().list().unwrap(), []);
    assert!(!Path::new(&path).exists());
}

/// Where a process is killed while it creates an account.
#[derive(Debug, Clone, Copy)]
enum Killed {
    Before,
    After,
    Never,
}

fn killed() -> impl Strategy<Value = Killed> {
    prop_oneof![
        1 => Just(Killed::Before),
        1 => Just(Killed::After),
        3 => Just(Killed::Never)
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    /// The number of uses is the number of accounts, wherever the process is killed.
    #[test]
    fn uses_are_counted_exactly_once(uses in 1u32..5, steps in proptest::collection::vec(killed(), 1..10)) {
        let folder = Folder::new(RegistrationMode::Invitation, None);
        let token = folder.invite(uses, NOW + DAY);
        let path = folder.settings.directory.join(token.id().as_str());
        let accounts = std::cell::RefCell::new(BTreeSet::new());
        let exists = |address: &str| accounts.borrow().contains(address);
        for (number, killed) in steps.into_iter().enumerate() {
            let address = format!("user{number}@b.c");
            let within = Cell::new(None);
            let locked = folder.locked();
            let created = locked.create(Some(&token), &address, NOW, exists, || {
                if !matches!(killed, Killed::Before) {
                    accounts.borrow_mut().insert(address.clone());
                }
                // The files as they are in the middle are those that a kill leaves.
                within.set(Some(fs::read(&path)?));
                Ok(())
            }).unwrap();
            let before = accounts.borrow().len() - usize::from(exists(&address));
            prop_assert_eq!(created.is_ok(), before < uses as usize);
            if let (Some(text), Killed::Before | Killed::After) = (within.take(), killed) {
                fs::write(&path, text).unwrap();
            }
            drop(locked);
            if number % 2 == 0 {
                folder.locked().recover(exists).unwrap();
                let stored = folder.register().find(&token.id()).unwrap().unwrap();
                prop_assert_eq!(stored.used as usize, accounts.borrow().len());
                prop_assert_eq!(stored.pending, None);
            }
        }
        prop_assert!(accounts.borrow().len() <= uses as usize);
    }

    #[test]
    fn no_text_is_taken_for_a_token_that_is_not_one(text in ".{0,40}") {
        if let Some(token) = Token::parse(&text) {
            prop_assert_eq!(token.as_str(), &text);
            prop_assert!(text.bytes().all(|byte| byte.is_ascii_alphanumeric()));
        }
        if let Some((token, rest)) = Token::split(text.as_bytes()) {
            prop_assert_eq!([token.as_str().as_bytes(), rest].concat(), text.into_bytes());
        }
    }
}
