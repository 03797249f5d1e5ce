//! The scripts in `nix/apps`, which lead an operator from a laptop to a relay. Stand-ins take the place of Nix, SSH and
//! the programs that install.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tempfile::TempDir;

mod init;
mod install;

const KEY: &str =
    "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIAABAgMEBQYHCAkKCwwNDg8QERITFBUWFxgZGhscHR4f you@example.org";

/// Answers what the scripts evaluate.
const NIX: &str = r#"#!/bin/sh
case "$*" in
*currentSystem*) cat "$STATE/here" ;;
*nixosConfigurations\ --apply*) cat "$STATE/relays" ;;
*.disko.devices.disk.main.device*) printf /dev/sda ;;
*.services.chatmail.addresses*) cat "$STATE/addresses" ;;
*.nixpkgs.hostPlatform.system*) printf x86_64-linux ;;
*) echo "unexpected: nix $*" >&2; exit 1 ;;
esac
"#;

/// A machine: `facts` is what a look at it yields, `status` contains an exit status and a line for each time that doctor
/// runs, the last one for all further times.
const SSH: &str = r#"#!/bin/sh
while [ "${1#-}" != "$1" ]; do shift 2; done
echo "ssh $*" | sed 's/ sh -s .*/ sh/' >>"$STATE/calls"
shift
[ "$1" != sudo ] || shift 2
case "$*" in
"chatmail doctor")
  line=$(head -n 1 "$STATE/status")
  [ "$(wc -l <"$STATE/status")" = 1 ] || sed -i 1d "$STATE/status"
  printf '%b\n' "${line#* }"
  exit "${line%% *}"
  ;;
"chatmail dns --check") cat "$STATE/dns"; exit 1 ;;
"sh -s"*) if [ -e "$STATE/facts" ]; then cat >"$STATE/stdin"; cat "$STATE/facts"; else "$@"; fi ;;
*) echo "unexpected: ssh $*" >&2; exit 1 ;;
esac
"#;

const RECORD: &str = r#"#!/bin/sh
echo "${0##*/} $*" | sed "s|$PWD|FOLDER|g" >>"$STATE/calls"
"#;

fn apps() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../nix/apps")
}

/// A computer on which the scripts run.
struct Laptop {
    folder: TempDir,
}

struct Ended {
    good: bool,
    text: String,
}

impl Laptop {
    fn new() -> Self {
        let laptop = Self {
            folder: tempfile::tempdir().unwrap(),
        };
        for folder in ["bin", "state", "work"] {
            fs::create_dir(laptop.path(folder)).unwrap();
        }
        laptop
    }

    /// With the folder of a fleet, and a machine that fits.
    fn with_fleet() -> Self {
        let laptop = Self::new();
        for (name, text) in [
            ("nix", NIX),
            ("ssh", SSH),
            ("nixos-anywhere", RECORD),
            ("nixos-rebuild", RECORD),
            ("sleep", "#!/bin/sh\n"),
            ("uname", "#!/bin/sh\necho x86_64\n"),
            (
                "lsblk",
                "#!/bin/sh\necho '/dev/vda 20G disk'\necho '/dev/sr0 1G rom'\n",
            ),
        ] {
            let path = laptop.path("bin").join(name);
            fs::write(&path, text).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::write(laptop.path("work/flake.nix"), "{ }").unwrap();
        fs::create_dir_all(laptop.path("work/hosts/one.example.org")).unwrap();
        laptop.state("addresses", "");
        laptop.state("here", "x86_64-linux");
        laptop.state("relays", "one.example.org\ntwo.example.org");
        laptop.state(
            "facts",
            "machine x86_64\nmemory 2000000\nfound yes\ndisk /dev/sda (20G)\n",
        );
        laptop.state("status", "0 All is well.\n");
        laptop.state("dns", "Required:\n\n  missing    one.example.org  A  192.0.2.1\n");
        laptop
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn state(&self, name: &str, text: &str) {
        fs::write(self.path("state").join(name), text).unwrap();
    }

    fn command(&self, program: &str) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .current_dir(self.path("work"))
            .env("HOME", self.folder.path())
            .env("PATH", format!("{}:{path}", self.path("bin").display()))
            .env("STATE", self.path("state"))
            .stdin(Stdio::null());
        command
    }

    fn end(mut command: Command) -> Ended {
        let output = command.output().unwrap();
        let text = [output.stdout, output.stderr].concat();
        Ended {
            good: output.status.success(),
            text: String::from_utf8(text).unwrap(),
        }
    }

    fn run(&self, script: &str, arguments: &[&str]) -> Ended {
        let mut command = self.command("bash");
        command.arg(apps().join(script)).args(arguments);
        Self::end(command)
    }

    fn init(&self, arguments: &[&str]) -> Ended {
        self.run("init.sh", arguments)
    }

    /// What a script says when it refuses.
    fn refused(&self, script: &str, arguments: &[&str]) -> String {
        let ended = self.run(script, arguments);
        assert!(!ended.good, "{script} {arguments:?} succeeds: {}", ended.text);
        assert_eq!(ended.text.lines().count(), 1, "{}", ended.text);
        ended.text
    }

    /// The programs that a script ran.
    fn calls(&self) -> String {
        fs::read_to_string(self.path("state/calls")).unwrap_or_default()
    }
}

fn files(folder: &Path) -> BTreeMap<PathBuf, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(next) = folders.pop() {
        for entry in fs::read_dir(next).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(folder).unwrap().to_owned();
                found.insert(name, fs::read_to_string(path).unwrap());
            }
        }
    }
    found
}

#[test]
fn every_script_has_a_help() {
    let laptop = Laptop::new();
    for script in ["init.sh", "install.sh", "deploy.sh"] {
        let ended = laptop.run(script, &["--help"]);
        assert!(ended.good && ended.text.starts_with("Usage: "), "{}", ended.text);
        assert!(
            ended.text.lines().all(|line| line.chars().count() <= 120),
            "{}",
            ended.text
        );
    }
}
