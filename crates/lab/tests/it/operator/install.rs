//! `install` and `deploy` change machines.

use std::fs;
use std::path::Path;

use super::Laptop;

#[test]
fn install_erases_only_a_machine_that_fits_and_waits_for_the_relay() {
    let laptop = Laptop::with_fleet();
    laptop.state(
        "status",
        "255 Connection refused\n127 sh: chatmail: not found\n1 FAILED  units       acme-one.service is failed\n\
         1 FAILED  units       acme-one.service is failed\n0 All is well.\n",
    );
    let ended = laptop.run("install.sh", &["--yes", "one.example.org", "admin@192.0.2.1"]);
    assert!(ended.good, "{}", ended.text);
    let addresses = fs::read_to_string(laptop.path("work/hosts/one.example.org/addresses.nix")).unwrap();
    insta::assert_snapshot!(format!(
        "{}--- runs\n{}--- addresses.nix\n{addresses}",
        ended.text,
        laptop.calls()
    ));
}

#[test]
fn install_finds_the_public_address_unless_it_is_set() {
    let fits = "machine x86_64\nmemory 2000000\nfound yes\ndisk /dev/sda (20G)\n";
    for (set, address, destination, written) in [
        ("", "198.51.100.7", "root@192.0.2.1", Some("\"192.0.2.1\"")),
        ("", "198.51.100.7", "root@machine", Some("\"198.51.100.7\"")),
        ("", "2001:db8::7", "root@machine", Some("\"2001:db8::7\"")),
        ("203.0.113.1", "10.0.0.1", "root@192.0.2.1", None),
    ] {
        let laptop = Laptop::with_fleet();
        laptop.state("addresses", set);
        laptop.state("facts", &format!("{fits}address {address}\n"));
        let ended = laptop.run("install.sh", &["--yes", "one.example.org", destination]);
        assert!(ended.good, "{}", ended.text);
        let file = fs::read_to_string(laptop.path("work/hosts/one.example.org/addresses.nix"));
        match written {
            Some(address) => assert!(file.unwrap().contains(address), "{destination}"),
            None => assert!(file.is_err(), "{destination}"),
        }
    }
    for (address, destination) in [
        ("10.0.0.1", "root@machine"),
        ("", "root@machine"),
        ("198.51.100.7", "root@192.168.1.2"),
    ] {
        let laptop = Laptop::with_fleet();
        laptop.state("facts", &format!("{fits}address {address}\n"));
        let ended = laptop.run("install.sh", &["--yes", "one.example.org", destination]);
        assert!(
            !ended.good && !laptop.calls().contains("nixos-anywhere"),
            "{}",
            ended.text
        );
        assert!(
            ended.text.contains("set services.chatmail.addresses"),
            "{}",
            ended.text
        );
    }
}

#[test]
fn install_refuses_before_anything_is_erased() {
    let fits = "machine x86_64\nmemory 2000000\nfound yes\ndisk /dev/sda (20G)\n";
    let mut text = String::new();
    for (facts, arguments) in [
        (fits, &["one.example.org", "root@192.0.2.1"][..]),
        (fits, &["--yes", "root@192.0.2.1"]),
        (fits, &["--yes", "three.example.org", "root@192.0.2.1"]),
        (fits, &["--yes", "one.example.org"]),
        (fits, &["--yes", "one.example.org", "192.0.2.1"]),
        (fits, &["--yes", "one.example.org", "root@-oProxyCommand=x"]),
        (
            fits,
            &["--yes", "--wait", "soon", "one.example.org", "root@192.0.2.1"],
        ),
        (fits, &["--force", "one.example.org", "root@192.0.2.1"]),
    ] {
        let laptop = Laptop::with_fleet();
        laptop.state("facts", facts);
        text += &laptop.refused("install.sh", arguments);
        assert_eq!(laptop.calls(), "");
    }
    for (from, to) in [
        ("machine x86_64", "machine aarch64"),
        (fits, "Please log in as the user ubuntu.\n"),
        ("found yes\ndisk /dev/sda", "disk /dev/vda"),
        ("memory 2000000", "memory 500000"),
    ] {
        let laptop = Laptop::with_fleet();
        laptop.state("facts", &fits.replace(from, to));
        let ended = laptop.run("install.sh", &["--yes", "one.example.org", "root@192.0.2.1"]);
        assert!(!ended.good, "{}", ended.text);
        text += &ended.text;
        assert_eq!(laptop.calls(), "ssh root@192.0.2.1 sh\n");
    }
    let laptop = Laptop::with_fleet();
    fs::remove_file(laptop.path("work/flake.nix")).unwrap();
    let refused = laptop.refused("deploy.sh", &["one.example.org"]);
    text += &refused.replace(&laptop.path("work").display().to_string(), "FOLDER");
    insta::assert_snapshot!(text);
}

/// The look at a machine runs in its own shell.
#[test]
fn install_looks_at_the_machine_itself() {
    let laptop = Laptop::with_fleet();
    fs::remove_file(laptop.path("state/facts")).unwrap();
    let ended = laptop.run("install.sh", &["--yes", "one.example.org", "root@192.0.2.1"]);
    if Path::new("/dev/sda").exists() {
        assert!(ended.text.contains("This erases /dev/sda"), "{}", ended.text);
    } else {
        let found = "has no disk /dev/sda, but: /dev/vda (20G); change";
        assert!(!ended.good && ended.text.contains(found), "{}", ended.text);
    }
}

#[test]
fn a_small_machine_uses_the_tools_of_the_installer() {
    for (facts, option) in [
        (
            "machine x86_64\nmemory 980000\nfound yes\ndisk /dev/sda (20G)\n",
            true,
        ),
        (
            "machine x86_64\nmemory 500000\nfound yes\ninstaller yes\ndisk /dev/sda (20G)\n",
            false,
        ),
    ] {
        let laptop = Laptop::with_fleet();
        laptop.state("facts", facts);
        let ended = laptop.run("install.sh", &["--yes", "one.example.org", "root@192.0.2.1"]);
        assert!(ended.good, "{}", ended.text);
        assert_eq!(
            laptop.calls().contains("--no-disko-deps"),
            option,
            "{}",
            laptop.calls()
        );
    }
}

#[test]
fn deploy_switches_the_relay_and_builds_where_it_can() {
    let mut text = String::new();
    for (here, arguments) in [
        ("x86_64-linux", &["two.example.org"][..]),
        ("aarch64-darwin", &["two.example.org", "admin@192.0.2.2"]),
    ] {
        let laptop = Laptop::with_fleet();
        laptop.state("here", here);
        let ended = laptop.run("deploy.sh", arguments);
        assert!(ended.good, "{}", ended.text);
        text += &format!("{}--- runs\n{}", ended.text, laptop.calls());
    }
    // A single relay needs no name.
    let laptop = Laptop::with_fleet();
    laptop.state("relays", "192.0.2.3");
    let ended = laptop.run("deploy.sh", &[]);
    assert!(ended.good, "{}", ended.text);
    text += &format!("{}--- runs\n{}", ended.text, laptop.calls());
    insta::assert_snapshot!(text);
}

#[test]
fn waiting_for_a_relay_has_an_end() {
    let laptop = Laptop::with_fleet();
    laptop.state("status", "1 ok      timers      4 timers run on time\\nFAILED  units       dovecot.service is failed: see\\n                    `journalctl -u dovecot`\\nok      dkim        fine\\n1 problem needs attention.\n");
    let ended = laptop.run("deploy.sh", &["--wait", "1", "one.example.org"]);
    assert!(!ended.good, "{}", ended.text);
    insta::assert_snapshot!(ended.text);
}
