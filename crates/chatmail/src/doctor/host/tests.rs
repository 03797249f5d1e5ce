use std::os::unix::process::ExitStatusExt as _;
use std::process::ExitStatus;

use super::super::verdict::State;
use super::*;

/// The texts of all findings, each of which has to say what to do.
fn texts(verdict: &Verdict) -> Vec<&str> {
    match verdict {
        Verdict::Well(_) => Vec::new(),
        Verdict::Skipped(_) => vec!["skipped"],
        Verdict::Found(found) => {
            assert!(
                found
                    .iter()
                    .all(|one| one.state == State::Failed && !one.advice.is_empty())
            );
            found.iter().map(|one| one.text.as_str()).collect()
        }
    }
}

fn unit(name: &str, state: &str) -> Unit {
    Unit {
        name: name.to_owned(),
        state: state.to_owned(),
        oneshot: false,
        ended: None,
    }
}

#[test]
fn failed_units_are_named_once_and_units_of_the_host_count_too() {
    let units = [unit("dovecot.service", "failed"), unit("nginx.service", "active")];
    let verdict = judge_units(
        &units,
        "dovecot.service loaded failed failed Dovecot\nother.service loaded failed failed x\n",
    );
    assert_eq!(
        texts(&verdict),
        ["dovecot.service is failed", "other.service is failed"]
    );
    assert!(texts(&judge_units(&units[1..], "")).is_empty());
}

#[test]
fn timers_have_to_be_active_and_to_run() {
    let timer = |name: &str, state: &str, last| Timer {
        name: name.to_owned(),
        state: state.to_owned(),
        last,
    };
    let now = 10 * DAY;
    let fine = timer("chatmail-expire.timer", "active", now - DAY);
    let new = timer("chatmail-fsreport.timer", "active", 0);
    let late = timer("chatmail-metrics.timer", "active", now - 5 * HOUR);
    let off = timer("chatmail-expire.timer", "inactive", now);
    assert!(texts(&judge_timers(&[fine, new], now - HOUR, now)).is_empty());
    let never = timer("chatmail-fsreport.timer", "active", 0);
    assert_eq!(
        texts(&judge_timers(&[late, off, never], now - 3 * DAY, now)),
        [
            "chatmail-metrics.timer has not run for 5 hour(s)",
            "chatmail-expire.timer is inactive",
            "chatmail-fsreport.timer has not run for 72 hour(s)",
        ]
    );
}

#[test]
fn the_clock_is_judged_only_if_somebody_knows() {
    assert!(texts(&judge_clock("yes")).is_empty());
    assert_eq!(texts(&judge_clock("")), ["skipped"]);
    assert_eq!(texts(&judge_clock("no")).len(), 1);
}

#[test]
fn resources_and_inodes_run_out() {
    let text = include_str!("../../../../chatmail-core/testdata/settings.json");
    let settings = Settings::parse(text, Path::new("sample")).unwrap();
    let fine = Resources {
        load_1m: Some(0.1),
        memory_available: Some(1 << 30),
        disk_free: Some(10 << 30),
    };
    assert!(texts(&judge_resources(&settings, &fine, (50, 100))).is_empty());
    // btrfs.
    assert!(texts(&judge_resources(&settings, &fine, (0, 0))).is_empty());
    let full = Resources {
        disk_free: Some(0),
        ..fine
    };
    assert_eq!(texts(&judge_resources(&settings, &full, (4, 100))).len(), 2);
}

#[test]
fn limits_are_named_with_their_setting() {
    let fine = || Limits {
        files: (100, 1000),
        services: vec![("dovecot.service".to_owned(), 65536)],
        instances: 8192,
        watches: 8192,
        used: 10,
    };
    assert!(texts(&judge_limits(&fine())).is_empty());
    let low = Limits {
        files: (950, 1000),
        services: vec![("dovecot.service".to_owned(), 1024)],
        instances: 128,
        watches: 100,
        used: 120,
    };
    assert_eq!(
        texts(&judge_limits(&low)),
        [
            "950 of 1000 possible files are open",
            "dovecot.service can open only 1024 files",
            "fs.inotify.max_user_instances is 128, too few for many open mailboxes",
            "fs.inotify.max_user_watches is 100, too few for many open mailboxes",
            "120 of 128 inotify instances are in use",
        ]
    );
}

#[test]
fn secrets_are_private_present_and_of_the_right_user() {
    let secret = |path: &str, readers, mode, owner: &str, empty| Secret {
        path: path.into(),
        readers,
        owner: Some("opendkim"),
        facts: Ok(Facts {
            mode,
            owner: owner.to_owned(),
            empty,
        }),
    };
    let fine = [
        secret("/a", Readers::Group, 0o640, "opendkim", false),
        secret("/b", Readers::Owner, 0o600, "opendkim", false),
    ];
    assert!(texts(&judge_files(&fine)).is_empty());
    let mut missing = secret("/f", Readers::Owner, 0, "", false);
    missing.facts = Err("not found".to_owned());
    let bad = [
        secret("/c", Readers::Group, 0o644, "opendkim", false),
        secret("/d", Readers::Owner, 0o640, "opendkim", false),
        secret("/e", Readers::Owner, 0o600, "root", true),
        missing,
    ];
    assert_eq!(
        texts(&judge_files(&bad)),
        [
            "other users have access to /c (mode 0644)",
            "other users have access to /d (mode 0640)",
            "/e belongs to root",
            "/e is empty",
            "/f cannot be read (not found)",
        ]
    );
}

#[test]
fn configurations_fail_by_status_or_message_but_not_by_warnings() {
    let output = |status, stderr: &str| Output {
        status: ExitStatus::from_raw(status),
        stdout: Vec::new(),
        stderr: stderr.into(),
    };
    assert!(
        texts(&judge_configuration(
            "x",
            &output(0, "postconf: warning: unused parameter\n")
        ))
        .is_empty()
    );
    assert_eq!(
        texts(&judge_configuration(
            "x",
            &output(0, "a warning\npostfix: fatal: bad value\n")
        )),
        ["`x` reports: postfix: fatal: bad value"]
    );
    assert_eq!(
        texts(&judge_configuration("x", &output(256, "broken\n"))),
        ["`x` reports: broken"]
    );
}
