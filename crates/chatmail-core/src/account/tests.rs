use std::os::unix::fs::PermissionsExt as _;

use super::*;

fn store() -> (tempfile::TempDir, Account) {
    let dir = tempfile::tempdir().unwrap();
    let account = MailStore::new(dir.path()).account(&Address::parse("abcdefghi@chat.example.org").unwrap());
    (dir, account)
}

#[test]
fn a_new_account_is_complete_and_private() {
    let (dir, account) = store();
    assert_eq!(account.password_hash().unwrap(), None);
    account.create("{ARGON2ID}x").unwrap();
    assert_eq!(account.password_hash().unwrap().as_deref(), Some("{ARGON2ID}x"));
    assert!(account.enforces_e2ee());
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(account.dir()), 0o700);
    assert_eq!(mode(&account.dir().join(PASSWORD_FILE)), 0o600);
    assert_eq!(MailStore::new(dir.path()).addresses().unwrap().len(), 1);
}

#[test]
fn a_lock_excludes_and_ends() {
    let (_dir, account) = store();
    let lock = account.try_lock().unwrap();
    assert!(lock.is_some());
    assert!(account.try_lock().unwrap().is_none());
    drop(lock);
    assert!(account.try_lock().unwrap().is_some());
}

#[test]
fn a_lock_under_which_nothing_was_created_leaves_nothing() {
    let (dir, account) = store();
    let entries = || fs::read_dir(dir.path()).unwrap().count();
    drop(account.try_lock().unwrap().unwrap());
    assert_eq!(entries(), 0);
    let lock = account.try_lock().unwrap().unwrap();
    account.create("x").unwrap();
    drop(lock);
    assert_eq!(account.password_hash().unwrap().as_deref(), Some("x"));

    // The folder is removed, and another process creates and locks it again: it belongs to that process.
    let (_dir, account) = store();
    let old = account.try_lock().unwrap().unwrap();
    fs::remove_dir(account.dir()).unwrap();
    let new = account.try_lock().unwrap().unwrap();
    drop(old);
    assert!(new.holds().unwrap());
}

#[test]
fn what_a_crash_leaves_of_a_creation_is_known_and_removed() {
    let (_dir, account) = store();
    for remains in [
        &[][..],
        &[ENFORCE_E2EE_FILE],
        &[ENFORCE_E2EE_FILE, ".password-x1y2z3"],
    ] {
        account.create_dir().unwrap();
        for file in remains {
            fs::write(account.dir().join(file), "").unwrap();
        }
        assert!(account.is_remains().unwrap());
        assert!(account.remove_remains().unwrap());
        assert!(!account.dir().exists());
    }
    account.create("x").unwrap();
    assert!(!account.remove_remains().unwrap());
    assert!(account.enforces_e2ee(), "an account stays whole");
    fs::remove_file(account.dir().join(PASSWORD_FILE)).unwrap();
    fs::create_dir(account.dir().join("cur")).unwrap();
    assert!(!account.remove_remains().unwrap(), "there may be mail");
    assert!(account.dir().join(ENFORCE_E2EE_FILE).exists());
}

#[test]
fn a_creation_that_fails_leaves_nothing() {
    let (dir, account) = store();
    let lock = account.try_lock().unwrap();
    // A folder with the name of the password file makes the last step fail, as a full disk does.
    fs::create_dir(account.dir().join(PASSWORD_FILE)).unwrap();
    let error = account.create("x").unwrap_err();
    assert!(!error.to_string().contains("abcdefghi"), "{error}");
    fs::remove_dir(account.dir().join(PASSWORD_FILE)).unwrap();
    assert!(account.is_remains().unwrap());
    account.remove_remains().unwrap();
    drop(lock);
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn an_empty_password_file_is_an_error() {
    let (_dir, account) = store();
    account.create("x").unwrap();
    fs::write(account.dir().join(PASSWORD_FILE), "\n").unwrap();
    assert_eq!(
        account.password_hash().unwrap_err().kind(),
        io::ErrorKind::InvalidData
    );
}

#[test]
fn last_login_is_a_day_and_survives_a_new_hash() {
    let (_dir, account) = store();
    let login = SystemTime::UNIX_EPOCH + Duration::from_secs(20_000 * DAY + 4711);
    account.set_last_login(login).unwrap();
    assert_eq!(account.last_login().unwrap(), None, "no account, nothing stored");
    account.create("x").unwrap();
    account.set_last_login(login).unwrap();
    account.set_password_hash("y").unwrap();
    assert_eq!(account.last_login().unwrap(), Some(day_of(login)));
}

#[test]
fn a_ban_is_kept_once_and_taken_back() {
    let (_dir, account) = store();
    account.ban().unwrap();
    assert_eq!(
        account.password_hash().unwrap(),
        None,
        "no account, nothing stored"
    );
    account.create("{ARGON2ID}x").unwrap();
    account.set_last_login(SystemTime::UNIX_EPOCH).unwrap();
    account.ban().unwrap();
    account.ban().unwrap();
    assert_eq!(account.password_hash().unwrap().as_deref(), Some("!{ARGON2ID}x"));
    assert_eq!(account.last_login().unwrap(), Some(SystemTime::UNIX_EPOCH));
    account.unban().unwrap();
    account.unban().unwrap();
    assert_eq!(account.password_hash().unwrap().as_deref(), Some("{ARGON2ID}x"));
}

#[test]
fn dovecots_count_is_summed_up() {
    let (_dir, account) = store();
    account.create("x").unwrap();
    assert_eq!(account.quota_use(), None);
    fs::write(
        account.dir().join(MAILDIRSIZE),
        "500000S\n1000 2\n300 1\n-300 -1\n",
    )
    .unwrap();
    assert_eq!(account.quota_use(), Some((1000, 2)));
    fs::write(account.dir().join(MAILDIRSIZE), "500000S\n-5 -1\n").unwrap();
    assert_eq!(account.quota_use(), None, "Dovecot counts anew");
}

#[test]
fn removing_the_marker_allows_cleartext() {
    let (_dir, account) = store();
    account.create("x").unwrap();
    fs::remove_file(account.dir().join(ENFORCE_E2EE_FILE)).unwrap();
    assert!(!account.enforces_e2ee());
}
