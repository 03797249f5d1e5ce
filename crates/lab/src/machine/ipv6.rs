//! IPv6 between one machine and the host, which the lab otherwise does without.

use std::net::Ipv6Addr;

use super::network;

/// IPv6 in the network of a machine until it goes out of scope.
///
/// The addresses are in a block that is not allocated: relays do not deliver to those reserved for tests.
#[derive(Debug)]
pub(crate) struct Ipv6 {
    machine: String,
}

impl Ipv6 {
    /// Address of the host.
    pub(crate) const HOST: Ipv6Addr = Ipv6Addr::new(0x2d00, 0x25, 0, 0, 0, 0, 0, 1);
    /// Seems to exist, and never answers.
    pub(crate) const DEAD: Ipv6Addr = Ipv6Addr::new(0x2d00, 0x25, 0, 0, 0, 0, 0, 2);
    const MACHINE: Ipv6Addr = Ipv6Addr::new(0x2d00, 0x25, 0, 0, 0, 0, 0, 3);

    pub(crate) fn new(machine: &str) -> anyhow::Result<Self> {
        let ipv6 = Self {
            machine: machine.to_owned(),
        };
        network::add_ipv6(machine, Self::HOST, Self::MACHINE, Self::DEAD)?;
        Ok(ipv6)
    }
}

impl Drop for Ipv6 {
    fn drop(&mut self) {
        if let Err(error) = network::remove_ipv6(&self.machine, Self::HOST, Self::MACHINE) {
            eprintln!("lab: {error:#}");
        }
    }
}
