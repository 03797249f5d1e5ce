//! chatmail-fsreport.

use std::fs;

use crate::tree::{Tree, file};

fn store() -> Tree {
    let tree = Tree::new();
    let first = tree.account("first1234@chat.example.org", 0);
    file(&first.join("cur/a"), 3 << 20, 0);
    file(&first.join("new/b"), 600 << 10, 0);
    file(&first.join(".Sent/cur/c"), 1000, 0);
    file(&first.join(".Sent/dovecot.index.cache"), 5000, 0);
    file(&first.join("sieve/tmp/script"), 700, 0);
    let second = tree.account("second123@chat.example.org", 35);
    file(&second.join("cur/d"), 11 << 20, 0);
    tree.account("ci-123456@chat.example.org", 2);
    // Bug 7 of the reference relay: this is not a test account.
    tree.account("x.ci-1234@chat.example.org", 200);
    file(&tree.store().join("nobody123@chat.example.org/cur/e"), 2000, 0);
    tree
}

/// The date of the report is now.
fn undated(report: &str) -> String {
    let mut out = String::new();
    for line in report.lines() {
        match line.split_once("date reference ") {
            Some((before, date)) => {
                assert!(
                    date.len() == "2027-01-15 08:00:00 UTC".len() && date.ends_with(" UTC"),
                    "{date}"
                );
                out.push_str(before);
                out.push_str("date reference NOW");
            }
            None => out.push_str(line),
        }
        out.push('\n');
    }
    out
}

#[test]
fn the_report_for_people() {
    let tree = store();
    let ran = tree.run("chatmail-fsreport", &[] as &[&str]);
    assert!(ran.success, "{}", ran.stderr);
    insta::assert_snapshot!(undated(&ran.stdout));
}

#[test]
fn the_report_on_some_messages() {
    let tree = store();
    let args = ["--min-login-age", "30", "--mdir", "cur"];
    insta::assert_snapshot!(undated(&tree.run("chatmail-fsreport", &args).stdout));
}

#[test]
fn the_report_as_json() {
    let tree = store();
    let ran = tree.run("chatmail-fsreport", &["--json"]);
    let mut json: serde_json::Value = serde_json::from_str(&ran.stdout).unwrap();
    assert!(json["now"].take().as_i64().unwrap() > 1_700_000_000);
    insta::assert_snapshot!(format!("{json:#}"));
}

#[test]
fn prometheus_reads_a_file() {
    let tree = store();
    let folder = tree.root().join("node-exporter");
    fs::create_dir(&folder).unwrap();
    let ran = tree.run("chatmail-fsreport", &["--textfile".as_ref(), folder.as_os_str()]);
    assert!(ran.success, "{}", ran.stderr);
    assert_eq!(ran.stdout, "");
    let written = fs::read_to_string(folder.join("fsreport.prom")).unwrap();
    insta::assert_snapshot!(written);
    let named = tree.root().join("named.prom");
    let legacy = tree.root().join("legacy");
    let ran = tree.run(
        "chatmail-fsreport",
        &[
            "--textfile".as_ref(),
            named.as_os_str(),
            "--legacy-metrics".as_ref(),
            legacy.as_os_str(),
        ],
    );
    assert!(ran.success, "{}", ran.stderr);
    assert_eq!(fs::read_to_string(named).unwrap(), written);
    assert!(
        fs::read_to_string(legacy)
            .unwrap()
            .contains("\nnonci_accounts 3\n")
    );
}

#[test]
fn the_web_site_gets_account_counts() {
    let tree = store();
    let output = tree.root().join("metrics");
    for _ in 0..2 {
        let ran = tree.run(
            "chatmail-fsreport",
            &["--legacy-metrics".as_ref(), output.as_os_str()],
        );
        assert!(ran.success, "{}", ran.stderr);
        assert_eq!(ran.stdout, "");
    }
    insta::assert_snapshot!(fs::read_to_string(output).unwrap());
}

#[test]
fn an_empty_store_is_no_problem() {
    let tree = Tree::new();
    fs::remove_dir(tree.store()).unwrap();
    let output = tree.root().join("metrics");
    let ran = tree.run(
        "chatmail-fsreport",
        &["--legacy-metrics".as_ref(), output.as_os_str()],
    );
    assert!(ran.success, "{}", ran.stderr);
    assert!(fs::read_to_string(output).unwrap().contains("\naccounts 0\n"));
    assert!(tree.run("chatmail-fsreport", &["--json"]).success);
}
