//! Trees with links to other folders, that change during a run, or that cannot be read.

use std::ffi::OsStr;
use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::process::CommandExt;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::tree::{DAY, Tree, file, fingerprint, message};

const PROGRAMS: [(&str, &[&str]); 2] = [("chatmail-expire", &["--remove"]), ("chatmail-fsreport", &[])];

#[test]
fn symbolic_links_lead_nowhere() {
    let tree = Tree::with_quota(1000);
    let outside = tree.root().join("outside");
    for name in ["message", "cur/message", "new/message", "password"] {
        file(&outside.join(name), 300_000, 300 * DAY);
    }
    message(&outside.join("cur"), 1, 1_000_000, 10 * DAY);
    let account = tree.account("active123@chat.example.org", 0);
    fs::remove_dir(account.join("cur")).unwrap();
    symlink(outside.join("cur"), account.join("cur")).unwrap();
    symlink(&outside, account.join(".Outside")).unwrap();
    symlink(outside.join("message"), account.join("new/link")).unwrap();
    symlink("..", account.join("new/loop")).unwrap();
    symlink(".", account.join(".Loop")).unwrap();
    symlink(&account, account.join("Extra")).unwrap();
    // An account, a password and a folder to be removed that are links.
    symlink(&outside, tree.store().join("linked123@chat.example.org")).unwrap();
    symlink(
        &outside,
        tree.store().join(".removing-linked123@chat.example.org"),
    )
    .unwrap();
    let by_link = tree.store().join("pwlink123@chat.example.org");
    fs::create_dir(&by_link).unwrap();
    symlink(outside.join("password"), by_link.join("password")).unwrap();
    let gone = tree.account("gone12345@chat.example.org", 100);
    symlink(&outside, gone.join(".Outside")).unwrap();

    let before = fingerprint(&outside);
    for (program, args) in PROGRAMS {
        let ran = tree.run(program, args);
        assert!(ran.success, "{program}: {}", ran.stderr);
        assert_eq!(fingerprint(&outside), before, "{program}");
    }
    assert!(!gone.exists());
    let ran = tree.run("chatmail-quota-expire", &[OsStr::new("0"), account.as_os_str()]);
    assert!(ran.success, "{}", ran.stderr);
    assert_eq!(fingerprint(&outside), before);
    assert!(by_link.exists() && tree.store().join("linked123@chat.example.org").is_symlink());
    assert!(account.join("new/link").is_symlink());
}

#[test]
fn names_need_not_be_text() {
    let tree = Tree::with_quota(1000);
    let account = tree.account("active123@chat.example.org", 0);
    let strange = |dir: &str, bytes: &[u8]| account.join(dir).join(OsStr::from_bytes(bytes));
    let old = strange("cur", b"\xff\xfe old");
    file(&old, 1, 30 * DAY);
    let trimmed = strange(".Sent/new", b"1700000000.\xff,S=5000:2,\x80");
    file(&trimmed, 10, 3 * DAY);
    let young = strange("new", b"\n\xf0");
    file(&young, 1, DAY / 2);
    let odd = tree.store().join(OsStr::from_bytes(b"\xff\xfe@chat.example.org"));
    fs::create_dir(&odd).unwrap();
    file(&odd.join("password"), 1, 100 * DAY);
    let ran = tree.run("chatmail-expire", &["-v", "--remove"]);
    assert!(ran.success, "{}", ran.stderr);
    assert!(!old.exists() && !trimmed.exists() && young.exists() && !odd.exists());
    insta::assert_snapshot!(ran.stdout, @"Removed 1 out of 2 mailboxes and 2 out of 3 files in existing mailboxes in N.NN seconds");
}

#[test]
fn messages_may_vanish_at_any_time() {
    let tree = Tree::with_quota(1000);
    for user in 0..8 {
        let account = tree.account(
            &format!("user{user:05}@chat.example.org"),
            u64::from(user > 5) * 100,
        );
        for number in 0..500 {
            message(&account.join("cur"), number, 1000, (number % 40) * DAY + 60);
            message(&account.join(".Sent/new"), number, 1000, (number % 40) * DAY + 60);
        }
    }
    let done = AtomicBool::new(false);
    let ran = std::thread::scope(|scope| {
        // Deletes from the other end, folders included, until the program is done.
        scope.spawn(|| {
            let mut dirs: Vec<_> = (0..8)
                .flat_map(|user| {
                    let account = tree.store().join(format!("user{user:05}@chat.example.org"));
                    [account.join("cur"), account.join(".Sent/new"), account]
                })
                .collect();
            while let Some(dir) = dirs.pop()
                && !done.load(Ordering::Relaxed)
            {
                for entry in dir.read_dir().into_iter().flatten().flatten() {
                    let _ = fs::remove_file(entry.path());
                }
                let _ = fs::remove_dir(&dir);
            }
        });
        let ran = tree.run("chatmail-expire", &["--remove"]);
        done.store(true, Ordering::Relaxed);
        ran
    });
    assert!(ran.success, "{}", ran.stderr);
    assert_eq!(ran.stderr, "");
}

#[test]
fn a_huge_folder_is_emptied() {
    let tree = Tree::with_quota(1_000_000);
    let account = tree.account("active123@chat.example.org", 0);
    // More than one round for the quota, and as many old messages.
    for number in 0..20_000 {
        message(&account.join("cur"), number, 1000, 10 * DAY + number);
        message(&account.join("new"), number, 1000, 30 * DAY + number);
    }
    let ran = tree.run("chatmail-expire", &["--remove"]);
    assert!(ran.success, "{}", ran.stderr);
    insta::assert_snapshot!(ran.stdout, @"Removed 0 out of 1 mailboxes and 39300 out of 40000 files in existing mailboxes in N.NN seconds");
    let left = |part: &str| account.join(part).read_dir().unwrap().count();
    assert_eq!((left("cur"), left("new")), (700, 0));
}

/// Root can read everything, so the program then runs as another user.
#[test]
fn what_cannot_be_read_is_reported_and_passed_over() {
    const NOBODY: u32 = 65_534;
    let tree = Tree::new();
    let locked = tree.account("locked123@chat.example.org", 0);
    let part = tree.account("locked456@chat.example.org", 0);
    let open = tree.account("open12345@chat.example.org", 0);
    for account in [&locked, &part, &open] {
        file(&account.join("cur/old"), 1, 30 * DAY);
        file(&account.join(".Sent/cur/old"), 1, 30 * DAY);
    }
    let root = nix::unistd::geteuid().is_root();
    if root {
        let mut all: Vec<_> = tree
            .names()
            .into_iter()
            .map(|name| tree.store().join(name))
            .collect();
        all.extend([tree.store(), tree.root().to_owned()]);
        for path in all {
            std::os::unix::fs::chown(path, Some(NOBODY), Some(NOBODY)).unwrap();
        }
    }
    let close = |path: &std::path::Path| fs::set_permissions(path, Permissions::from_mode(0o000)).unwrap();
    close(&locked);
    close(&part.join("cur"));
    let as_nobody = |program: &str, args: &[&str]| {
        let mut command = tree.command(program);
        if root {
            command.uid(NOBODY).gid(NOBODY);
        }
        tree.finish(command.args(args).output().unwrap())
    };
    let ran = as_nobody("chatmail-expire", &["--remove"]);
    let report = as_nobody("chatmail-fsreport", &[]);
    for path in [&locked, &part.join("cur")] {
        fs::set_permissions(path, Permissions::from_mode(0o700)).unwrap();
    }
    assert!(!ran.success && !report.success);
    insta::assert_snapshot!(ran.stderr, @r"
    ROOT/mail/locked123@chat.example.org: Permission denied (os error 13)
    ROOT/mail/locked456@chat.example.org/cur: Permission denied (os error 13)
    ");
    insta::assert_snapshot!(ran.stdout, @"Removed 0 out of 2 mailboxes and 3 out of 3 files in existing mailboxes in N.NN seconds");
    assert!(locked.join("cur/old").exists() && part.join("cur/old").exists());
    assert!(!open.join("cur/old").exists() && !part.join(".Sent/cur/old").exists());
}
