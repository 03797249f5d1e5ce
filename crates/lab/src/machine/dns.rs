//! The machine that answers for every domain of the lab, and with NXDOMAIN for all others.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::os::unix::fs::symlink;
use std::path::Path;

use anyhow::{Context as _, ensure};

use super::container;
use super::state::Leader;

/// Name of the machine.
pub(super) const NAME: &str = "dns";
/// Its address.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 25, 2);

/// Zones are answered as they are loaded; a root zone without any name in it denies all else at once, so that no
/// client ever waits for servers that cannot be reached. `test.` is one of the names that unbound would deny itself.
const CONFIGURATION: &str = r#"server:
    interface: 0.0.0.0
    access-control: 0.0.0.0/0 allow
    do-ip6: no
    username: ""
    chroot: ""
    pidfile: ""
    directory: /etc/unbound
    do-daemonize: no
    use-syslog: no
    module-config: "iterator"
    local-zone: "test." nodefault
auth-zone:
    name: "."
    zonefile: root.zone
include: /etc/unbound/zones.conf
remote-control:
    control-enable: no
"#;

const ROOT_ZONE: &str = "\
. 60 IN SOA dns.lab. hostmaster.dns.lab. 1 3600 600 86400 0
. 60 IN NS dns.lab.
";

const UNIT: &str = "\
[Unit]
Description=Name server of the lab
# Scenarios publish zones one after the other.
StartLimitIntervalSec=0

[Service]
Type=notify
ExecStart=/usr/sbin/unbound -d -p -c /etc/unbound/unbound.conf
Restart=on-failure
";

/// Writes the server's files into a machine's tree.
pub(super) fn apply(root: &Path) -> anyhow::Result<()> {
    let folder = root.join("etc/unbound");
    fs::create_dir_all(folder.join("zones"))?;
    fs::write(folder.join("unbound.conf"), CONFIGURATION)?;
    fs::write(folder.join("root.zone"), ROOT_ZONE)?;
    fs::write(folder.join("zones.conf"), "")?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("unbound.service"), UNIT)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink(
        "/etc/systemd/system/unbound.service",
        units.join("multi-user.target.wants/unbound.service"),
    )?;
    Ok(())
}

/// Loads zones, each a name and a text in the format of RFC 1035 section 5, in place of earlier ones of these names.
/// Questions about a zone with an empty text are never answered.
pub(super) async fn publish(root: &Path, leader: Leader, zones: &[(&str, &str)]) -> anyhow::Result<()> {
    let folder = root.join("etc/unbound");
    for (zone, text) in zones {
        let zone = zone.trim_end_matches('.');
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !zone.is_empty() && zone.chars().all(valid),
            "`{zone}` is no name of a zone"
        );
        fs::write(folder.join("zones").join(zone), text)
            .with_context(|| format!("cannot write the zone {zone}"))?;
    }
    let mut list = String::new();
    for entry in fs::read_dir(folder.join("zones"))? {
        let zone = entry?
            .file_name()
            .into_string()
            .ok()
            .context("a zone's name is no UTF-8")?;
        if fs::metadata(folder.join("zones").join(&zone))?.len() == 0 {
            writeln!(list, "server:\n    local-zone: \"{zone}.\" deny")?;
            continue;
        }
        writeln!(
            list,
            "auth-zone:\n    name: \"{zone}.\"\n    zonefile: \"zones/{zone}\""
        )?;
    }
    fs::write(folder.join("zones.conf"), list)?;
    // A restart ends when the new process answers; a reload would return before the zones are loaded.
    container::capture(leader, &["systemctl", "restart", "unbound.service"]).await?;
    Ok(())
}
