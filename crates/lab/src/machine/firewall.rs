//! Firewalls of providers, which drop packets without an answer.

use std::io::Write as _;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

use super::network;

/// The nftables table with the rules.
const TABLE: &str = "inet provider";

/// Direction of packets, as their machine sees them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Direction {
    Incoming,
    Outgoing,
}

impl Direction {
    /// The netfilter hook where such packets pass.
    fn hook(self) -> &'static str {
        match self {
            Self::Incoming => "input",
            Self::Outgoing => "output",
        }
    }
}

/// Drops packets of a machine until it goes out of scope.
#[derive(Debug)]
pub(crate) struct Firewall {
    machine: String,
}

impl Firewall {
    /// Drops TCP packets to a port, also those of open connections.
    pub(crate) fn drop_packets(machine: &str, port: u16, directions: &[Direction]) -> anyhow::Result<Self> {
        let mut rules = format!("table {TABLE} {{\n");
        for hook in directions.iter().map(|direction| direction.hook()) {
            rules.push_str(&format!(
                "chain {hook} {{ type filter hook {hook} priority 0; tcp dport {port} drop; }}\n"
            ));
        }
        rules.push_str("}\n");
        nft(machine, &rules)?;
        Ok(Self {
            machine: machine.to_owned(),
        })
    }
}

impl Drop for Firewall {
    fn drop(&mut self) {
        if let Err(error) = nft(&self.machine, &format!("delete table {TABLE}\n")) {
            eprintln!("lab: {error:#}");
        }
    }
}

/// Applies rules in the network namespace of a machine.
fn nft(machine: &str, rules: &str) -> anyhow::Result<()> {
    let mut child = Command::new("nsenter")
        .arg(format!("--net={}", network::namespace_file(machine).display()))
        .args(["nft", "-f", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot run nft")?;
    // Closed before the wait: nft reads to the end.
    child
        .stdin
        .take()
        .context("nft has no input")?
        .write_all(rules.as_bytes())?;
    let output = child.wait_with_output()?;
    ensure!(
        output.status.success(),
        "nft refuses `{}`: {}",
        rules.trim_end(),
        String::from_utf8_lossy(&output.stderr).trim()
    );
    Ok(())
}
