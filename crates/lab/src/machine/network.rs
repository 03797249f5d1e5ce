//! The lab's network: a bridge on the host, and for each machine a network namespace with a fixed address.
//!
//! Addresses are set before a machine boots, so the machine does not have to configure a network or wait for it.
//! 198.18.0.0/15 is reserved for benchmarks of network devices (RFC 2544), so hosts do not use it otherwise.

use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::PathBuf;
use std::process::{Command, Stdio};

use anyhow::{Context as _, bail};

/// The bridge on the host.
const BRIDGE: &str = "chatmail-lab";
/// Address of the host on the bridge.
pub(super) const HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 25, 1);
/// Prefix length of the lab's network.
const PREFIX: u8 = 24;

/// Second address of the host, for clients that must not share an address with the others.
const OTHER_HOST: Ipv4Addr = Ipv4Addr::new(198, 18, 25, 30);

/// Adds the second address to the host.
pub(super) fn other_host() -> anyhow::Result<Ipv4Addr> {
    ip(&format!("address replace {OTHER_HOST}/{PREFIX} dev {BRIDGE}\n"))?;
    Ok(OTHER_HOST)
}

/// The first of some addresses of servers that fail.
const DEAD: Ipv4Addr = Ipv4Addr::new(198, 18, 25, 40);
/// Hardware address of no machine.
const NOBODY: &str = "02:00:00:00:00:01";

/// Addresses for servers that fail. To `machine`, the first seems to exist and never answers; the others are the host's.
pub(super) fn dead(machine: &str, number: usize) -> anyhow::Result<Vec<Ipv4Addr>> {
    let addresses: Vec<Ipv4Addr> = (0..number)
        .filter_map(|at| u32::try_from(at).ok()?.checked_add(DEAD.into()))
        .map(Ipv4Addr::from)
        .collect();
    for (at, address) in addresses.iter().enumerate() {
        if at == 0 {
            let space = namespace(machine);
            ip(&format!(
                "-n {space} neigh replace {address} lladdr {NOBODY} dev eth0 nud permanent\n"
            ))?;
        } else {
            ip(&format!("address replace {address}/{PREFIX} dev {BRIDGE}\n"))?;
        }
    }
    Ok(addresses)
}

/// Gives IPv6 addresses to the host and to a machine, to which a third one seems to exist and never answers.
pub(super) fn add_ipv6(machine: &str, host: Ipv6Addr, own: Ipv6Addr, dead: Ipv6Addr) -> anyhow::Result<()> {
    let space = namespace(machine);
    ip(&format!(
        "-6 address replace {host}/64 dev {BRIDGE} nodad\n\
         -n {space} -6 address replace {own}/64 dev eth0 nodad\n\
         -n {space} -6 neigh replace {dead} lladdr {NOBODY} dev eth0 nud permanent\n"
    ))
}

/// Removes the addresses of [`add_ipv6`].
pub(super) fn remove_ipv6(machine: &str, host: Ipv6Addr, own: Ipv6Addr) -> anyhow::Result<()> {
    let space = namespace(machine);
    ip(&format!(
        "-6 address delete {host}/64 dev {BRIDGE}\n\
         -n {space} -6 address delete {own}/64 dev eth0\n"
    ))
}

/// A namespace for clients whose network only allows TCP connections to port 443, as in some hotels.
pub(super) const GUEST: (&str, Ipv4Addr) = ("guest", Ipv4Addr::new(198, 18, 25, 20));

/// Rejects TCP connections from the namespace [`GUEST`] to every port except 443, immediately and with an error.
pub(super) fn close_ports() -> anyhow::Result<()> {
    let space = namespace(GUEST.0);
    ip(&format!(
        "-n {space} rule add pref 100 ipproto tcp dport 443 lookup main\n\
         -n {space} rule add pref 101 ipproto tcp prohibit\n"
    ))
}

/// Prefix of the addresses of a machine without IPv4 and of those that it needs: the last part is that of IPv4.
const PREFIX6: [u16; 7] = [0xfd00, 0x198, 0x18, 0x25, 0, 0, 0];

fn ipv6(address: Ipv4Addr) -> Ipv6Addr {
    let [one, two, three, four, five, six, seven] = PREFIX6;
    let [.., last] = address.octets();
    Ipv6Addr::new(one, two, three, four, five, six, seven, last.into())
}

/// Takes the IPv4 address away from a machine and gives it one of IPv6, with which it reaches the host and `server`.
pub(super) fn only_ipv6(
    machine: &str,
    address: Ipv4Addr,
    server: &str,
    at: Ipv4Addr,
) -> anyhow::Result<Ipv6Addr> {
    let (space, server) = (namespace(machine), namespace(server));
    let (six, host, at) = (ipv6(address), ipv6(HOST), ipv6(at));
    // A machine without IPv6 has switched it off for its namespace.
    ip(&format!(
        "netns exec {space} sysctl -qw net.ipv6.conf.all.disable_ipv6=0\n\
         netns exec {server} sysctl -qw net.ipv6.conf.all.disable_ipv6=0\n\
         address replace {host}/64 dev {BRIDGE} nodad\n\
         -n {server} address replace {at}/64 dev eth0 nodad\n\
         -n {space} address flush dev eth0 scope global\n\
         -n {space} address replace {six}/64 dev eth0 nodad\n\
         -n {space} route replace default via {host}\n"
    ))?;
    Ok(six)
}

/// Undoes [`only_ipv6`] for a machine.
pub(super) fn only_ipv4(machine: &str, address: Ipv4Addr) -> anyhow::Result<()> {
    let space = namespace(machine);
    ip(&format!(
        "-n {space} address flush dev eth0 scope global\n\
         -n {space} address replace {address}/{PREFIX} dev eth0\n\
         -n {space} route replace default via {HOST}\n"
    ))
}

/// Creates the bridge and one namespace per machine.
pub(super) fn create(machines: &[(&str, Ipv4Addr)]) -> anyhow::Result<()> {
    ip(&format!(
        "link add {BRIDGE} type bridge\naddress add {HOST}/{PREFIX} dev {BRIDGE}\nlink set {BRIDGE} up\n"
    ))?;
    for (machine, address) in machines {
        let (space, link) = (namespace(machine), host_link(machine));
        ip(&format!(
            "netns add {space}\n\
             link add {link} type veth peer name eth0 netns {space}\n\
             link set {link} master {BRIDGE} up\n"
        ))?;
        ip(&format!(
            "-n {space} link set lo up\n\
             -n {space} address add {address}/{PREFIX} dev eth0\n\
             -n {space} link set eth0 up\n\
             -n {space} route add default via {HOST}\n"
        ))?;
    }
    Ok(())
}

/// Removes what [`create`] has created, even if that is incomplete.
pub(super) fn remove(machines: &[&str]) -> anyhow::Result<()> {
    for machine in machines {
        // The link first: the kernel removes a namespace later, and the next start needs the link's name at once.
        let link = host_link(machine);
        if exists(&link) {
            ip(&format!("link delete {link}\n"))?;
        }
        if namespace_file(machine).exists() {
            ip(&format!("netns delete {}\n", namespace(machine)))?;
        }
    }
    if exists(BRIDGE) {
        ip(&format!("link delete {BRIDGE}\n"))?;
    }
    Ok(())
}

/// File of a machine's namespace.
pub(super) fn namespace_file(machine: &str) -> PathBuf {
    PathBuf::from("/run/netns").join(namespace(machine))
}

fn namespace(machine: &str) -> String {
    format!("{BRIDGE}-{machine}")
}

/// Name of the host's end of the link; the kernel allows at most 15 bytes.
fn host_link(machine: &str) -> String {
    format!("cml-{machine}")
}

fn exists(link: &str) -> bool {
    PathBuf::from("/sys/class/net").join(link).exists()
}

/// Runs `ip` once for each line, and stops at the first failure.
fn ip(lines: &str) -> anyhow::Result<()> {
    for line in lines.lines() {
        let output = Command::new("ip")
            .args(line.split_whitespace())
            .stdin(Stdio::null())
            .output()
            .with_context(|| format!("cannot run ip {line}"))?;
        if !output.status.success() {
            bail!(
                "`ip {line}` failed: {}",
                String::from_utf8_lossy(&output.stderr).trim()
            );
        }
    }
    Ok(())
}
