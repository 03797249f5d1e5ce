//! chatmail-quota-expire, called as Dovecot calls it.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::tree::{DAY, Ran, Tree, file, fingerprint, message};

const MEBIBYTE: u64 = 1 << 20;

fn trim(tree: &Tree, megabytes: &str, mailbox: &Path) -> Ran {
    tree.run(
        "chatmail-quota-expire",
        &[megabytes.as_ref(), mailbox.as_os_str()],
    )
}

/// Bug 2 of the reference relay: it only considers INBOX.
#[test]
fn the_oldest_messages_of_all_folders_go() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 0);
    // By delivery, not by the order of names or the date of the file.
    let first = message(&account.join(".Sent/cur"), 1, MEBIBYTE, 10 * DAY);
    let second = message(&account.join("new"), 2, MEBIBYTE, 9 * DAY);
    file(&second, MEBIBYTE, 0);
    let third = message(&account.join("cur"), 3, MEBIBYTE, 8 * DAY);
    let ran = trim(&tree, "1", &account);
    assert!(ran.success);
    insta::assert_snapshot!(ran.stderr, @"quota-expire: removed 2 message(s) from active123@chat.example.org");
    assert_eq!(ran.stdout, "");
    assert!(!first.exists() && !second.exists() && third.exists());
    assert!(!account.join("maildirsize").exists());
}

#[test]
fn size_counts_as_dovecot_counts_it() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 0);
    // Compressed to a tenth on disk.
    let compressed = message(&account.join("cur"), 1, MEBIBYTE, 10 * DAY);
    file(&compressed, MEBIBYTE / 10, 10 * DAY);
    // Without a size in its name, the size of the file counts; files in tmp do not count.
    file(&account.join("cur/moved-in"), MEBIBYTE / 2, 5 * DAY);
    file(&account.join("tmp/1700000000.x,S=99999999"), MEBIBYTE, 5 * DAY);
    let ran = trim(&tree, "1", &account);
    insta::assert_snapshot!(ran.stderr, @"quota-expire: removed 1 message(s) from active123@chat.example.org");
    assert!(!compressed.exists() && account.join("cur/moved-in").exists());
}

#[test]
fn a_mailbox_with_room_is_left_alone() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 0);
    message(&account.join("cur"), 1, MEBIBYTE, 10 * DAY);
    let before = fingerprint(&tree.store());
    let ran = trim(&tree, "1", &account);
    assert!(ran.success);
    assert_eq!(ran.stderr, "");
    assert_eq!(fingerprint(&tree.store()), before);
}

#[test]
fn the_last_day_stays_even_when_the_mailbox_is_full() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 0);
    let recent = message(&account.join("cur"), 1, 2 * MEBIBYTE, DAY - 60);
    assert!(trim(&tree, "1", &account).success);
    assert!(recent.exists());
}

#[test]
fn only_mailboxes_of_the_store_are_touched() {
    let tree = Tree::new();
    let account = tree.account("active123@chat.example.org", 0);
    let outside = tree.root().join("outside/other1234@chat.example.org");
    message(&outside.join("cur"), 1, 2 * MEBIBYTE, 10 * DAY);
    let inner = account.join("inner@chat.example.org");
    message(&inner.join("cur"), 1, 2 * MEBIBYTE, 10 * DAY);
    symlink(&outside, tree.store().join("linked123@chat.example.org")).unwrap();
    symlink(tree.root().join("outside"), tree.store().join("side")).unwrap();
    fs::create_dir(tree.store().join("no-address")).unwrap();
    let before = fingerprint(tree.root());
    for path in [
        outside.clone(),
        inner,
        tree.store(),
        tree.store().join(".."),
        tree.store().join("no-address"),
        tree.store().join("missing12@chat.example.org"),
        tree.store().join("linked123@chat.example.org"),
        tree.store().join("side/other1234@chat.example.org"),
        tree.store().join("../outside/other1234@chat.example.org"),
        "/".into(),
    ] {
        let ran = trim(&tree, "1", &path);
        assert!(!ran.success, "{path:?}");
        assert_eq!(ran.stderr.lines().count(), 1, "{}", ran.stderr);
    }
    assert_eq!(fingerprint(tree.root()), before);
    // Another path to the same mailbox.
    assert!(
        trim(
            &tree,
            "1",
            &tree.store().join("side/../mail/active123@chat.example.org")
        )
        .success
    );
}
