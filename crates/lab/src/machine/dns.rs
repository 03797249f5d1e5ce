//! The lab's name server: answers for every domain of the lab, and returns NXDOMAIN for all others.

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
/// Address of the machine.
pub(super) const ADDRESS: Ipv4Addr = Ipv4Addr::new(198, 18, 25, 2);

/// unbound answers from the loaded zones. The root zone contains no names, so all others get NXDOMAIN at once, and no
/// client waits for servers that the lab cannot reach. By default, unbound itself returns NXDOMAIN for `test.`.
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
include: /etc/unbound/ipv6.conf
remote-control:
    control-enable: no
"#;

/// Answers over IPv6 too.
const IPV6: &str = "\
server:
    interface: ::0
    access-control: ::0/0 allow
    do-ip6: yes
";

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
    fs::write(folder.join("ipv6.conf"), "")?;
    let units = root.join("etc/systemd/system");
    fs::write(units.join("unbound.service"), UNIT)?;
    fs::create_dir_all(units.join("multi-user.target.wants"))?;
    symlink(
        "/etc/systemd/system/unbound.service",
        units.join("multi-user.target.wants/unbound.service"),
    )?;
    Ok(())
}

/// Also answers over IPv6 from the next [`publish`] on.
pub(super) fn answer_over_ipv6(root: &Path) -> anyhow::Result<()> {
    fs::write(root.join("etc/unbound/ipv6.conf"), IPV6).context("cannot configure the name server")
}

/// Loads zones, each a name and a text in the format of RFC 1035 section 5, and replaces earlier ones of these names.
/// The server never answers queries for a zone with an empty text.
pub(super) async fn publish(root: &Path, leader: Leader, zones: &[(&str, &str)]) -> anyhow::Result<()> {
    let folder = root.join("etc/unbound");
    for (zone, text) in zones {
        let zone = zone.trim_end_matches('.');
        let valid = |c: char| c.is_ascii_alphanumeric() || "-_.".contains(c);
        ensure!(
            !zone.is_empty() && zone.chars().all(valid),
            "`{zone}` is not a valid zone name"
        );
        fs::write(folder.join("zones").join(zone), text)
            .with_context(|| format!("cannot write the zone {zone}"))?;
    }
    load(&folder, leader).await
}

/// Removes a zone.
pub(super) async fn withdraw(root: &Path, leader: Leader, zone: &str) -> anyhow::Result<()> {
    let folder = root.join("etc/unbound");
    fs::remove_file(folder.join("zones").join(zone))
        .with_context(|| format!("cannot remove the zone {zone}"))?;
    load(&folder, leader).await
}

/// Restarts the server with the zones in its folder.
async fn load(folder: &Path, leader: Leader) -> anyhow::Result<()> {
    let mut list = String::new();
    for entry in fs::read_dir(folder.join("zones"))? {
        let zone = entry?
            .file_name()
            .into_string()
            .ok()
            .context("a zone's name is not UTF-8")?;
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
    // A restart returns when the new process is ready; a reload would return before the zones are loaded.
    container::capture(leader, &["systemctl", "restart", "unbound.service"]).await?;
    Ok(())
}
