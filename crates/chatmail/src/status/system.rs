//! The relay as seen by the system: its units, connections and the versions of its programs.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use serde::Serialize;

use crate::program;

/// The units of a relay; units that do not exist on the host are skipped.
const UNITS: [&str; 27] = [
    "postfix.service",
    "dovecot.service",
    "nginx.service",
    "opendkim.service",
    "unbound.service",
    "doveauth.service",
    "lastlogin.service",
    "chatmail-metadata.service",
    "filtermail-incoming.service",
    "filtermail-outgoing.service",
    "filtermail-mxdeliv.service",
    "filtermail-transport.service",
    "chatmail-websocket.service",
    "newemail.service",
    "chatmail-turn.service",
    "iroh-relay.service",
    "mtail.service",
    "postfix-setup.service",
    "chatmail-dkim-key.service",
    "chatmail-certificate.service",
    "chatmail-selfsigned.service",
    EXPIRE,
    "chatmail-fsreport.service",
    "chatmail-fsreport-textfile.service",
    "chatmail-metrics.service",
    "chatmail-status-page.service",
    "restic-backups-chatmail.service",
];

/// The daily removal of old messages and accounts.
pub(crate) const EXPIRE: &str = "chatmail-expire.service";

/// States of a socket in `/proc/net/tcp`.
const ESTABLISHED: &str = "01";
const LISTEN: &str = "0A";

/// One unit of systemd.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub(crate) struct Unit {
    pub(crate) name: String,
    /// State in systemd: `active`, `inactive`, `failed` and others.
    pub(crate) state: String,
    /// Whether the unit exits after its work.
    pub(crate) oneshot: bool,
    /// Unix time at which its process last exited.
    pub(crate) ended: Option<i64>,
}

impl Unit {
    /// Whether the unit needs no attention.
    pub(crate) fn is_well(&self) -> bool {
        self.state == "active" || (self.oneshot && self.state != "failed")
    }
}

pub(crate) fn units() -> anyhow::Result<Vec<Unit>> {
    let output = program::output(
        Command::new("systemctl")
            .args(["show", "--timestamp=unix"])
            .arg("--property=Id,LoadState,ActiveState,Type,ExecMainExitTimestamp")
            .args(UNITS),
    )?;
    ensure!(
        output.status.success(),
        "systemctl show failed with {}",
        output.status
    );
    Ok(parse_units(&String::from_utf8_lossy(&output.stdout)))
}

fn parse_units(text: &str) -> Vec<Unit> {
    let unit = |block: &str| {
        let properties: BTreeMap<_, _> = block.lines().filter_map(|line| line.split_once('=')).collect();
        (*properties.get("LoadState")? != "not-found").then_some(())?;
        Some(Unit {
            name: (*properties.get("Id")?).to_owned(),
            state: (*properties.get("ActiveState")?).to_owned(),
            oneshot: properties.get("Type").is_some_and(|kind| *kind == "oneshot"),
            ended: properties
                .get("ExecMainExitTimestamp")
                .and_then(|time| time.strip_prefix('@')?.parse().ok())
                .filter(|time| *time > 0),
        })
    };
    text.split("\n\n").filter_map(unit).collect()
}

/// Sockets of this host by local port.
#[derive(Debug, Default)]
pub(crate) struct Sockets {
    pub(crate) listening: Vec<u16>,
    established: BTreeMap<u16, usize>,
}

impl Sockets {
    pub(crate) fn read() -> anyhow::Result<Self> {
        let mut sockets = Self::default();
        for file in ["/proc/net/tcp", "/proc/net/tcp6"] {
            match fs::read_to_string(file) {
                Ok(text) => sockets.add(&text),
                // The host has no IPv6.
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| format!("cannot read {file}")),
            }
        }
        sockets.listening.sort_unstable();
        sockets.listening.dedup();
        Ok(sockets)
    }

    /// Adds the lines of a file, see proc_net_tcp(5).
    fn add(&mut self, text: &str) {
        for line in text.lines().skip(1) {
            let mut fields = line.split_whitespace();
            let port = fields
                .nth(1)
                .and_then(|local| u16::from_str_radix(local.rsplit(':').next()?, 16).ok());
            match (port, fields.nth(1)) {
                (Some(port), Some(LISTEN)) => self.listening.push(port),
                (Some(port), Some(ESTABLISHED)) => *self.established.entry(port).or_default() += 1,
                _ => {}
            }
        }
    }

    /// Number of connections to these ports.
    pub(crate) fn connections(&self, ports: &[u16]) -> usize {
        ports.iter().filter_map(|port| self.established.get(port)).sum()
    }
}

/// Number of processes with this name.
pub(crate) fn processes(name: &str) -> usize {
    let Ok(entries) = fs::read_dir("/proc") else {
        return 0;
    };
    entries
        .filter_map(Result::ok)
        .filter(|entry| {
            fs::read_to_string(entry.path().join("comm")).is_ok_and(|comm| comm.trim_end() == name)
        })
        .count()
}

/// The version that a program prints; none if it is not installed.
pub(crate) fn version(name: &str, arguments: &[&str]) -> Option<String> {
    let output = program::output(Command::new(name).args(arguments)).ok()?;
    let text = if output.stdout.is_empty() {
        output.stderr
    } else {
        output.stdout
    };
    let text = String::from_utf8_lossy(&text);
    text.lines()
        .next()
        .filter(|_| output.status.success())
        .map(|line| line.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_read_and_absent_ones_passed_over() {
        let text = "Type=notify\nId=doveauth.service\nLoadState=loaded\nActiveState=failed\nExecMainExitTimestamp=@1760000000\n\n\
                    Id=gone.service\nLoadState=not-found\nActiveState=inactive\n\n\
                    Type=oneshot\nId=chatmail-expire.service\nLoadState=loaded\nActiveState=inactive\nExecMainExitTimestamp=\n";
        let units = parse_units(text);
        let seen: Vec<_> = units
            .iter()
            .map(|unit| (unit.name.as_str(), unit.is_well(), unit.ended))
            .collect();
        assert_eq!(
            seen,
            [
                ("doveauth.service", false, Some(1_760_000_000)),
                ("chatmail-expire.service", true, None)
            ]
        );
    }

    #[test]
    fn sockets_are_counted_by_local_port() {
        let mut sockets = Sockets::default();
        sockets.add(
            "  sl  local_address rem_address   st tx_queue rx_queue\n\
             \x20  0: 00000000:03E1 00000000:0000 0A 00000000:00000000\n\
             \x20  1: 0100007F:03E1 0200007F:8000 01 00000000:00000000\n\
             \x20  2: 0100007F:03E1 0200007F:8001 06 00000000:00000000\n\
             \x20  3: 0100007F:008F 0200007F:8002 01 00000000:00000000\n\
             damaged\n",
        );
        assert_eq!(sockets.listening, [993]);
        assert_eq!(sockets.connections(&[143, 993]), 2);
        assert_eq!(sockets.connections(&[25]), 0);
    }
}
