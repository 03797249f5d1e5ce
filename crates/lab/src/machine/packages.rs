//! Stand-ins for packages of nixpkgs in a relay: links to Debian's files of the same software.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::Path;

use anyhow::Context as _;

/// Package of our programs, which are bound into the relays.
pub(super) const OURS: &str = "chatmail";

/// Package of the relay's web site, which the lab builds as Nix does.
pub(super) const SITE: &str = "chatmail-website";

/// Package of the iroh relay. Debian does not have it; the lab builds it from the crate, as the flake does.
pub(super) const IROH_RELAY: &str = "iroh-relay";

/// Unit of the iroh relay.
pub(super) const IROH_RELAY_UNIT: &str = "iroh-relay.service";

/// Folder of its build in the lab's directory. The version is that of nix/packages/iroh-relay.nix.
pub(super) const IROH_RELAY_BUILD: &str = "iroh-relay-0.35.0";

/// Arguments of `cargo install` that build it.
pub(super) const IROH_RELAY_SOURCE: [&str; 3] = ["iroh-relay@=0.35.0", "--features", "server"];

/// Package, path in it, and Debian's path.
const LINKS: [(&str, &str, &str); 39] = [
    ("bash", "bin", "/usr/bin"),
    ("coreutils", "bin", "/usr/bin"),
    ("coreutils", "sbin", "/usr/sbin"),
    ("coturn", "bin", "/usr/bin"),
    ("diffutils", "bin", "/usr/bin"),
    ("dovecot", "bin/doveadm", "/usr/bin/doveadm"),
    ("dovecot", "bin/doveconf", "/usr/bin/doveconf"),
    ("dovecot", "bin/dovecot", "/usr/sbin/dovecot"),
    ("dovecot", "lib/dovecot", "/usr/lib/dovecot"),
    ("dovecot", "libexec/dovecot", "/usr/lib/dovecot"),
    ("findutils", "bin", "/usr/bin"),
    ("findutils", "sbin", "/usr/sbin"),
    ("flock", "bin", "/usr/bin"),
    ("glibcLocales", "lib/locale", "/usr/lib/locale"),
    ("gnugrep", "bin", "/usr/bin"),
    ("gnugrep", "sbin", "/usr/sbin"),
    ("gnused", "bin", "/usr/bin"),
    ("gnused", "sbin", "/usr/sbin"),
    ("lego", "bin", "/usr/bin"),
    (
        "mailcap",
        "etc/nginx/mime.types",
        "/usr/share/chatmail-lab/nginx/mime.types",
    ),
    ("mtail", "bin", "/usr/bin"),
    ("nginxStable", "conf", "/usr/share/chatmail-lab/nginx"),
    ("opendkim", "bin", "/usr/sbin"),
    ("openssh", "bin", "/usr/bin"),
    ("openssl", "bin", "/usr/bin"),
    ("postfix", "bin", "/usr/sbin"),
    ("postfix", "etc/postfix", "/usr/share/chatmail-lab/postfix"),
    ("postfix", "libexec/postfix", "/usr/lib/postfix/sbin"),
    ("postfix", "sbin", "/usr/sbin"),
    ("postfix", "share/man", "/usr/share/man"),
    ("postfix", "share/postfix", "/usr/share/postfix"),
    ("procps", "bin", "/usr/bin"),
    ("restic", "bin", "/usr/bin"),
    ("systemd", "bin", "/usr/bin"),
    ("systemd", "lib/systemd", "/usr/lib/systemd"),
    ("systemd", "sbin", "/usr/sbin"),
    ("tzdata", "share/zoneinfo", "/usr/share/zoneinfo"),
    ("unbound-with-systemd", "bin", "/usr/sbin"),
    ("util-linux", "bin", "/usr/bin"),
];

/// The stream module is built into the nginx of nixpkgs; Debian's nginx has to load it.
const NGINX: &str = "#!/bin/sh\n\
    exec /usr/sbin/nginx -g 'load_module /usr/lib/nginx/modules/ngx_stream_module.so;' \"$@\"\n";

/// NixOS creates temporary certificates with minica, which Debian does not have; this does the same with openssl.
const MINICA: &str = include_str!("../../files/minica.sh");

/// Programs, other than ours, that units of NixOS run from `/run/current-system/sw/bin`.
const SYSTEM: [&str; 1] = ["kill"];

/// Package, program, and the script that replaces it.
const SCRIPTS: [(&str, &str, &str); 2] = [("minica", "minica", MINICA), ("nginxStable", "nginx", NGINX)];

/// Whether a package has a stand-in.
pub(super) fn known(package: &str) -> bool {
    [IROH_RELAY, OURS, SITE].contains(&package)
        || SCRIPTS.iter().any(|(name, ..)| *name == package)
        || LINKS.iter().any(|(name, ..)| *name == package)
}

/// Adds the stand-ins to a relay's tree. `programs` are the names of our programs.
pub(super) fn install(root: &Path, programs: &[String]) -> anyhow::Result<()> {
    let store = root.join("nix/store");
    for (package, path, target) in LINKS {
        link(target, &store.join(package).join(path))?;
    }
    for (package, program, text) in SCRIPTS {
        let folder = store.join(package).join("bin");
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(program), text)?;
        fs::set_permissions(folder.join(program), fs::Permissions::from_mode(0o755))?;
    }

    // `/run/current-system` points here, as on NixOS; systemd-tmpfiles creates that link at boot.
    let system = store.join("system-path/sw/bin");
    for program in programs {
        link(&format!("/nix/store/{OURS}/bin/{program}"), &system.join(program))?;
    }
    link("/usr/bin", &store.join("system-path/systemd/bin"))?;
    for program in SYSTEM {
        link(&format!("/usr/bin/{program}"), &system.join(program))?;
    }
    Ok(())
}

fn link(target: &str, path: &Path) -> anyhow::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    symlink(target, path).with_context(|| format!("cannot link {}", path.display()))
}
