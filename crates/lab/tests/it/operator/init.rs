//! `init` writes the folder of new relays.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::Stdio;

use super::{KEY, Laptop, apps, files};

/// Options that need no question, before the domains.
fn answered<'a>(more: &[&'a str]) -> Vec<&'a str> {
    let mut arguments = vec!["--input", "path:/path/to/the/clone", "--ssh-key", KEY];
    arguments.extend(["--email", "you@example.org"]);
    arguments.extend(more);
    arguments
}

#[test]
fn init_writes_the_committed_examples() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    for (name, more) in [
        ("init", &["--address", "192.0.2.1", "chat.example.org"][..]),
        ("fleet", &["one.example.org", "two.example.org"]),
    ] {
        let laptop = Laptop::new();
        let ended = laptop.init(&answered(&[&["--directory", name], more].concat()));
        assert!(ended.good, "{}", ended.text);
        let written = files(&laptop.path("work").join(name));
        assert_eq!(written, files(&examples.join(name)), "{name}");
        insta::assert_snapshot!(format!("init_{name}"), ended.text);
    }
}

#[test]
fn init_asks_only_for_what_a_relay_needs() {
    for (domain, needed) in [
        ("chat.example.org", "--input URL, --ssh-key KEY, --email ADDRESS"),
        ("_chat.example.org", "--input URL, --ssh-key KEY"),
        ("192.0.2.1", "--input URL, --ssh-key KEY"),
    ] {
        let laptop = Laptop::new();
        let text = laptop.refused("init.sh", &[domain]);
        assert!(text.ends_with(&format!("are required: {needed}\n")), "{text}");
        let ended = laptop.init(&answered(&[domain]));
        assert!(ended.good, "{}", ended.text);
        let written = files(&laptop.path("work").join(domain));
        let shared = &written[Path::new("shared.nix")];
        assert_eq!(shared.contains("acme"), needed.contains("--email"), "{shared}");
        let host = &written[&Path::new("hosts").join(domain).join("default.nix")];
        assert!(host.contains(&format!("domain = \"{domain}\";")), "{host}");
        assert!(!host.contains("hostName = \"_"), "{host}");
        assert_eq!(host.contains("addresses = [\n"), domain == "192.0.2.1", "{host}");
    }
}

#[test]
fn init_asks_on_a_terminal_until_the_answer_is_right() {
    let laptop = Laptop::new();
    fs::create_dir(laptop.path(".ssh")).unwrap();
    fs::write(laptop.path(".ssh/id_ed25519.pub"), format!("# mine\n\n{KEY}\n")).unwrap();
    let mut python = laptop.command("python3");
    let terminal = "import os, pty, sys; sys.exit(os.waitstatus_to_exitcode(pty.spawn(sys.argv[1:])))";
    python
        .args(["-c", terminal, "bash"])
        .arg(apps().join("init.sh"))
        .arg("chat.example.org")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut child = python.spawn().unwrap();
    let answers = "relay\npath:/clone\nssh-ed25519 x\n\nyou\nyou@example.org\n";
    child
        .stdin
        .as_mut()
        .unwrap()
        .write_all(answers.as_bytes())
        .unwrap();
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{text}");
    for refused in ["relay", "ssh-ed25519 x", "you"] {
        assert!(text.contains(&format!("\"{refused}\" ")), "{refused}: {text}");
    }
    let written = files(&laptop.path("work/chat.example.org"));
    assert!(written[Path::new("flake.nix")].contains("chatmail.url = \"path:/clone\";"));
    let shared = &written[Path::new("shared.nix")];
    assert!(
        shared.contains(KEY) && shared.contains("email = \"you@example.org\";"),
        "{shared}"
    );
}

#[test]
fn init_says_what_is_wrong_with_a_value() {
    let laptop = Laptop::new();
    fs::write(laptop.path("work/id"), "-----BEGIN OPENSSH PRIVATE KEY-----\n").unwrap();
    fs::write(laptop.path("work/id.pub"), format!("{KEY}\nssh-ed25519 AAAA\n")).unwrap();
    fs::write(laptop.path("work/empty"), "# none\n").unwrap();
    let label = format!("{}.org", "a".repeat(64));
    let mut text = String::new();
    for domain in [
        "",
        "relay",
        "Chat.example.org",
        "https://chat.example.org",
        "../chat.example.org",
        "chat.example.org:443",
        "me@chat.example.org",
        "chat.example.org.",
        "192.0.2.256",
        "[192.0.2.1]",
        "2001:db8::1",
        "bücher.example",
        "-a.example.org",
        "a..example.org",
        "a b.example.org",
        "${x}.example.org",
        "a\".example.org",
        &label,
    ] {
        text += &laptop.refused("init.sh", &answered(&["--", domain]));
    }
    let other_type = KEY.replace("ssh-ed25519", "ssh-rsa");
    let truncated = KEY.replace("HR4f", "HR4=");
    for more in [
        &["a.example.org", "a.example.org"][..],
        &["a.example.org", "--email", "you@a.example.org"],
        &["a.example.org", "--email", "you"],
        &["a.example.org", "--input", "github:OWNER/REPO#init"],
        &["a.example.org", "--input", "./clone"],
        &["a.example.org", "--input", "path:clone"],
        &["a.example.org", "--input", "path:/${x}"],
        &["a.example.org", "--ssh-key", "missing.pub"],
        &["a.example.org", "--ssh-key", "id"],
        &["a.example.org", "--ssh-key", "id.pub"],
        &["a.example.org", "--ssh-key", "empty"],
        &["a.example.org", "--ssh-key", &other_type],
        &["a.example.org", "--ssh-key", &truncated],
        &["a.example.org", "--disk", "sda"],
        &["a.example.org", "--disk", "/dev/../x"],
        &["a.example.org", "--system", "riscv64-linux"],
        &["a.example.org", "--address", "192.0.2"],
        &["a.example.org", "--address", "2001:db8:::1"],
        &["a.example.org", "b.example.org", "--address", "192.0.2.1"],
        &["a.example.org", "--email"],
        &["a.example.org", "--disks", "/dev/sda"],
        &[],
    ] {
        text += &laptop.refused("init.sh", &answered(more));
    }
    insta::assert_snapshot!(text);
    // Nothing was written.
    assert_eq!(files(&laptop.path("work")).len(), 3);
}

#[test]
fn init_overwrites_nothing() {
    let laptop = Laptop::new();
    let folder = laptop.path("work/chat.example.org");
    fs::create_dir(&folder).unwrap();
    let ended = laptop.init(&answered(&["chat.example.org"]));
    assert!(ended.good, "an empty folder is in the way: {}", ended.text);
    fs::write(folder.join("shared.nix"), "mine").unwrap();
    let before = files(&folder);
    let text = laptop.refused("init.sh", &answered(&["chat.example.org"]));
    assert!(text.contains("exists and is not empty"), "{text}");
    assert_eq!(files(&folder), before);
    fs::write(laptop.path("work/file"), "mine").unwrap();
    let text = laptop.refused("init.sh", &answered(&["--directory", "file", "a.example.org"]));
    assert!(text.contains("exists and is not a folder"), "{text}");
}

#[test]
fn values_become_strings_of_nix_and_nothing_else() {
    let laptop = Laptop::new();
    let key = format!("{KEY} \"; evil = ''${{x}} \\");
    let ended = laptop.init(&["--input", "path:/clone", "--ssh-key", &key, "_a.example.org"]);
    assert!(ended.good, "{}", ended.text);
    let written = files(&laptop.path("work/_a.example.org"));
    let shared = &written[Path::new("shared.nix")];
    let escaped = format!("    \"{KEY} \\\"; evil = ''\\${{x}} \\\\\"\n");
    assert!(shared.contains(&escaped), "{shared}");
}
