//! `chatmail manual`, and docs/command-line.md against the definitions of the commands.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::Relay;

/// Options that every command has.
const COMMON: [&str; 3] = ["help", "settings", "version"];
/// Commands that the module and packages run, not operators.
const INTERNAL: [&str; 3] = ["help", "manual", "website"];

fn written() -> (Relay, std::path::PathBuf) {
    let relay = Relay::new(|_| {});
    let share = relay.dir.path().join("share");
    let outcome = relay.chatmail(&["manual", "--output", share.to_str().unwrap()]);
    assert!(outcome.success, "{}", outcome.stderr);
    (relay, share)
}

/// Runs a command with `--help`, and returns its subcommands and options.
fn definitions(relay: &Relay, command: &[&str]) -> (Vec<String>, BTreeSet<String>) {
    let outcome = relay.chatmail(&[command, &["--help"]].concat());
    assert!(outcome.success, "{command:?}: {}", outcome.stderr);
    let mut commands = Vec::new();
    let mut options = BTreeSet::new();
    let mut listing = false;
    for line in outcome.stdout.lines() {
        if !line.starts_with(' ') {
            listing = line == "Commands:";
        }
        let line = line.trim_start();
        if listing && !line.is_empty() && line != "Commands:" {
            commands.extend(line.split_whitespace().next().map(str::to_owned));
        }
        if line.starts_with('-') {
            let long = line.split_whitespace().find_map(|word| word.strip_prefix("--"));
            options.extend(long.map(str::to_owned));
        }
    }
    (commands, options)
}

#[test]
fn command_line_documentation_is_complete() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/command-line.md");
    let docs = fs::read_to_string(path).unwrap();
    let relay = Relay::new(|_| {});
    let mut waiting: Vec<Vec<String>> = vec![Vec::new()];
    let (mut seen, mut missing) = (0, Vec::new());
    while let Some(command) = waiting.pop() {
        // They pass `--help` on to `mailtest`.
        if matches!(command.first().map(String::as_str), Some("test" | "ping")) {
            continue;
        }
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let (commands, options) = definitions(&relay, &words);
        for option in options.iter().filter(|option| !COMMON.contains(&option.as_str())) {
            seen += 1;
            if !docs.contains(&format!("--{option}")) {
                missing.push(format!("{} --{option}", command.join(" ")));
            }
        }
        for name in commands.iter().filter(|name| !INTERNAL.contains(&name.as_str())) {
            seen += 1;
            let whole = [&words[..], &[name]].concat().join(" ");
            // In a list below the heading of its command, a subcommand stands alone.
            let alone = format!("- `{name}");
            if !docs.contains(&format!("chatmail {whole}"))
                && !docs.contains(&format!("`{whole}"))
                && !docs.contains(&alone)
                && !docs.contains(&format!("  `{name}`"))
            {
                missing.push(whole);
            }
            waiting.push([command.clone(), vec![name.clone()]].concat());
        }
    }
    assert!(seen > 25, "only {seen} definitions were found");
    assert!(missing.is_empty(), "docs/command-line.md lacks {missing:#?}");
}

/// Each command that does something itself has a row about its failures.
#[test]
fn every_command_has_its_failures_in_the_coverage() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/coverage.md");
    let coverage = fs::read_to_string(path).unwrap();
    let relay = Relay::new(|_| {});
    let mut waiting: Vec<Vec<String>> = vec![Vec::new()];
    let mut missing = Vec::new();
    while let Some(command) = waiting.pop() {
        let words: Vec<&str> = command.iter().map(String::as_str).collect();
        let (commands, options) = match command.first().map(String::as_str) {
            Some("test" | "ping") => Default::default(),
            _ => definitions(&relay, &words),
        };
        let works = commands.is_empty() || options.contains("json");
        if works && !coverage.contains(&format!("\n| `chatmail {}` | ", words.join(" "))) {
            missing.push(command.join(" "));
        }
        let inner = commands.iter().filter(|name| *name != "help");
        waiting.extend(inner.map(|name| [command.clone(), vec![name.clone()]].concat()));
    }
    assert!(missing.is_empty(), "docs/coverage.md has no row for {missing:#?}");
}

#[test]
fn every_command_has_a_man_page_and_completions() {
    let (relay, share) = written();
    let (commands, _) = definitions(&relay, &[]);
    for name in commands.iter().filter(|name| *name != "help") {
        let page = fs::read_to_string(share.join(format!("man/man1/chatmail-{name}.1"))).unwrap();
        assert!(page.contains(".SH NAME"), "{page}");
        for file in [
            "bash-completion/completions/chatmail",
            "fish/vendor_completions.d/chatmail.fish",
            "zsh/site-functions/_chatmail",
        ] {
            let text = fs::read_to_string(share.join(file)).unwrap();
            assert!(text.contains(name.as_str()), "{file} lacks {name}");
        }
    }
}

#[test]
fn without_mailtest_the_next_step_is_named() {
    let relay = Relay::new(|_| {});
    for command in ["test", "ping"] {
        let outcome = relay.chatmail_with_path("/nonexistent", &[command, "chat.example.org", "--json"]);
        assert!(!outcome.success);
        assert!(
            outcome.stderr.contains("nix run FLAKE#mailtest"),
            "{}",
            outcome.stderr
        );
    }
}
