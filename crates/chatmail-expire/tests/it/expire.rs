//! Tests of what chatmail-expire removes and keeps.

use std::fs;

use chatmail_core::Address;
use chatmail_core::account::MailStore;

use crate::tree::{DAY, Tree, file, fingerprint, message};

/// One case of every rule.
fn every_rule() -> Tree {
    let tree = Tree::with_quota(10_000_000);
    let active = tree.account("active123@chat.example.org", 1);
    for part in ["cur", "new", "tmp", ".Sent/cur", ".A.B/new"] {
        file(&active.join(part).join("old"), 100, 20 * DAY + 60);
        file(&active.join(part).join("young"), 100, 20 * DAY - 60);
        file(&active.join(part).join("large"), 200_001, 7 * DAY + 60);
        file(&active.join(part).join("young-large"), 200_001, 7 * DAY - 60);
    }
    // Not a Maildir++ folder, so nothing in it is a message.
    file(&active.join("sieve/tmp/script"), 100, 300 * DAY);

    tree.account("gone12345@chat.example.org", 91);
    tree.account("almost123@chat.example.org", 89);
    fs::create_dir(tree.store().join("empty1234@chat.example.org")).unwrap();
    // The remains of a first login after a crash or on a full disk.
    for left in ["enforceE2EEincoming", ".password-Ab3dEf"] {
        file(&tree.store().join("half12345@chat.example.org").join(left), 0, 0);
    }
    file(
        &tree.store().join("nobody123@chat.example.org/cur/message"),
        100,
        300 * DAY,
    );
    file(&tree.store().join("no-address/password"), 1, 300 * DAY);

    let full = tree.account("full12345@chat.example.org", 1);
    for day in 2..12 {
        let folder = ["cur", "new", ".Sent/cur", ".A.B/new"][day as usize % 4];
        message(&full.join(folder), day, 1_000_000, day * DAY / 2 + 60);
    }
    tree
}

#[test]
fn every_rule_is_applied() {
    let tree = every_rule();
    let ran = tree.run("chatmail-expire", &["--remove"]);
    assert!(ran.success);
    assert_eq!(ran.stderr, "", "no account is named unless asked for");
    insta::assert_snapshot!(ran.stdout, @"Removed 3 out of 7 mailboxes and 10 out of 30 files in existing mailboxes in N.NN seconds");
    let left: Vec<_> = tree
        .names()
        .into_iter()
        .filter(|name| !name.starts_with("full"))
        .collect();
    insta::assert_snapshot!(left.join("\n"));
    // Ten messages of 1 MB in 10 MB: the three oldest are removed, wherever they are, and 7 MB stay.
    let full: Vec<_> = tree
        .names()
        .into_iter()
        .filter(|name| name.starts_with("full") && name.contains(",S="))
        .collect();
    assert_eq!(full.len(), 7, "{full:?}");
    for oldest in ["P9.", "P10.", "P11."] {
        assert!(!full.iter().any(|name| name.contains(oldest)), "{full:?}");
    }
    let again = tree.run("chatmail-expire", &["--remove"]);
    insta::assert_snapshot!(again.stdout, @"Removed 0 out of 4 mailboxes and 0 out of 20 files in existing mailboxes in N.NN seconds");
}

/// Bug 1 of the reference relay: its dry run trims for the quota.
#[test]
fn a_dry_run_changes_nothing_and_tells_the_numbers_of_a_real_one() {
    let tree = every_rule();
    file(
        &tree.store().join(".removing-half12345@chat.example.org/password"),
        1,
        200 * DAY,
    );
    let before = fingerprint(tree.root());
    let dry = tree.run("chatmail-expire", &["-v"]);
    assert!(dry.success);
    assert_eq!(fingerprint(tree.root()), before);
    assert!(
        !dry.stderr.lines().any(|line| line.starts_with("removing")),
        "{}",
        dry.stderr
    );
    let real = tree.run("chatmail-expire", &["--remove"]);
    assert_eq!(dry.stdout, real.stdout);
}

#[test]
fn details_name_what_goes_and_why_the_rest_stays() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 0);
    file(&account.join("cur/old"), 1, 30 * DAY);
    tree.account("gone12345@chat.example.org", 100);
    file(&tree.store().join("nobody123@chat.example.org/x"), 1, 0);
    let ran = tree.run("chatmail-expire", &["-v", "--remove"]);
    let details: Vec<_> = ran
        .stderr
        .lines()
        .map(|line| {
            let dateless = line
                .split(' ')
                .filter(|word| !(word.len() == 10 && word.starts_with("20")));
            dateless.collect::<Vec<_>>().join(" ")
        })
        .collect();
    insta::assert_snapshot!(details.join("\n"));
}

/// Bug 3 of the reference relay: a large message that stays in `new` removes `maildirsize` every night.
#[test]
fn maildirsize_goes_only_when_a_message_went() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 0);
    file(&account.join("new/large"), 300_000, 8 * DAY);
    tree.run("chatmail-expire", &["--remove"]);
    assert!(account.join("maildirsize").exists());
    file(&account.join("cur/large"), 300_000, 8 * DAY);
    let ran = tree.run("chatmail-expire", &["--remove"]);
    assert!(!account.join("maildirsize").exists());
    insta::assert_snapshot!(ran.stdout, @"Removed 0 out of 1 mailboxes and 1 out of 2 files in existing mailboxes in N.NN seconds");
}

#[test]
fn a_full_mailbox_keeps_its_last_day() {
    let tree = Tree::with_quota(1_000_000);
    let account = tree.account("active123@chat.example.org", 0);
    for number in 0..5 {
        message(&account.join("cur"), number, 1_000_000, DAY - 60 - number);
    }
    let protected = message(&account.join("new"), 9, 1_000_000, 0);
    let older = message(&account.join("new"), 10, 10, DAY + 60);
    tree.run("chatmail-expire", &["--remove"]);
    assert!(protected.exists());
    assert!(!older.exists());
    assert_eq!(account.join("cur").read_dir().unwrap().count(), 5);
}

#[test]
fn an_earlier_date_removes_less() {
    let tree = every_rule();
    let ran = tree.run("chatmail-expire", &["--days", "30", "--remove"]);
    insta::assert_snapshot!(ran.stdout, @"Removed 2 out of 7 mailboxes and 0 out of 30 files in existing mailboxes in N.NN seconds");
}

/// A creation holds the lock of its folder, in which there is no password yet.
#[test]
fn a_creation_that_is_under_way_is_left_alone() {
    let tree = Tree::new();
    let address = Address::parse("abcdefghi@chat.example.org").unwrap();
    let account = MailStore::new(tree.store()).account(&address);
    let lock = account.try_lock().unwrap().unwrap();
    file(&account.dir().join("enforceE2EEincoming"), 0, 0);
    assert!(tree.run("chatmail-expire", &["--remove"]).success);
    assert!(account.enforces_e2ee());
    drop(lock);
    assert!(tree.run("chatmail-expire", &["--remove"]).success);
    assert!(!account.dir().exists());
}

#[test]
fn too_many_messages_go_like_too_many_bytes() {
    let tree = Tree::with_limits(524_288_000, 100);
    let account = tree.account("active123@chat.example.org", 1);
    for number in 0..90_u32 {
        let folder = ["cur", "new", ".Sent/cur"][number as usize % 3];
        message(
            &account.join(folder),
            number.into(),
            1,
            DAY + u64::from(number) * 60 + 60,
        );
    }
    let dry = tree.run("chatmail-expire", &[""; 0]);
    insta::assert_snapshot!(dry.stdout, @"Removed 0 out of 1 mailboxes and 20 out of 90 files in existing mailboxes in N.NN seconds");
    let ran = tree.run("chatmail-expire", &["--remove"]);
    assert_eq!(ran.stdout, dry.stdout);
    let left: Vec<_> = tree
        .names()
        .into_iter()
        .filter(|name| name.contains(",S="))
        .collect();
    assert_eq!(left.len(), 70);
    assert!(!left.iter().any(|name| name.contains("P89.")), "the oldest go");
}

#[test]
fn an_endless_list_of_subscriptions_starts_anew() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 1);
    let list = account.join("subscriptions");
    file(&list, 256 * 1024, 0);
    tree.run("chatmail-expire", &["--remove"]);
    assert!(list.exists());
    file(&list, 256 * 1024 + 1, 0);
    tree.run("chatmail-expire", &[""; 0]);
    assert!(list.exists(), "a dry run");
    tree.run("chatmail-expire", &["--remove"]);
    assert!(!list.exists());
}

#[test]
fn only_some_mailboxes_are_looked_at() {
    let tree = Tree::new();
    for number in 0..20 {
        tree.account(&format!("user{number:05}@chat.example.org"), 100);
    }
    let ran = tree.run("chatmail-expire", &["--maxnum", "5", "--remove"]);
    insta::assert_snapshot!(ran.stdout, @"Removed 5 out of 5 mailboxes and 0 out of 0 files in existing mailboxes in N.NN seconds");
    assert_eq!(tree.store().read_dir().unwrap().count(), 15);
}

#[test]
fn before_the_first_account_there_is_nothing_to_do() {
    let tree = Tree::new();
    fs::remove_dir(tree.store()).unwrap();
    let ran = tree.run("chatmail-expire", &["--remove"]);
    assert!(ran.success);
    insta::assert_snapshot!(ran.stderr, @"no mailboxes found at: ROOT/mail");
    insta::assert_snapshot!(ran.stdout, @"Removed 0 out of 0 mailboxes and 0 out of 0 files in existing mailboxes in N.NN seconds");
}

#[test]
fn an_interrupted_removal_is_ended_or_taken_back() {
    let tree = Tree::new();
    let aside = |name: &str| {
        let account = tree.account(&format!("{name}@chat.example.org"), 100);
        let aside = tree.store().join(format!(".removing-{name}@chat.example.org"));
        fs::rename(account, &aside).unwrap();
        aside
    };
    let old = aside("gone12345");
    let halfway = aside("half12345");
    fs::remove_file(halfway.join("password")).unwrap();
    let back = aside("back12345");
    file(&back.join("password"), 20, 0);
    let ran = tree.run("chatmail-expire", &["--remove"]);
    assert!(ran.success, "{}", ran.stderr);
    assert!(!old.exists() && !halfway.exists() && !back.exists());
    assert!(tree.store().join("back12345@chat.example.org/password").exists());
    assert_eq!(tree.store().read_dir().unwrap().count(), 1);
}
