//! The machines of the lab: systemd-nspawn containers with Debian's daemons and our services, configured with the files
//! that the NixOS module renders.

mod ca;
mod cgroup;
pub(crate) mod cli;
mod container;
mod dns;
mod firewall;
mod generation;
mod ipv6;
mod journal;
mod limits;
mod network;
#[cfg(feature = "scenarios")]
mod nixos;
mod packages;
mod pointers;
mod relay_files;
mod services;
mod size;
mod start;
mod state;
mod switch;

use std::collections::BTreeMap;
use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use lab_front::paths::Paths;
use lab_front::prerequisites::{self, Need};
pub(crate) use lab_front::progress::Progress;
use mailtest::topology::Topology;
use nix::fcntl::{Flock, FlockArg};

pub(crate) use self::cgroup::Usage;
pub(crate) use self::firewall::{Direction, Firewall};
pub(crate) use self::ipv6::Ipv6;
pub(crate) use self::journal::Cursor;
#[cfg(feature = "scenarios")]
pub(crate) use self::nixos::{Builder, Packages, System, Variant};
pub(crate) use self::size::{Size, Used};
pub(crate) use self::start::{Found, interrupted};
pub(crate) use self::switch::Plan;

use self::state::{Leader, State};

/// A running lab.
#[derive(Debug)]
pub(crate) struct Lab {
    paths: Paths,
    state: State,
    found: Found,
    /// Machines that were booted again, with their current leaders.
    booted: Mutex<BTreeMap<String, Leader>>,
}

impl Lab {
    /// Starts the relays, or attaches to running ones of the same build. If the start fails or SIGINT or SIGTERM
    /// interrupts it, stops whatever it started.
    pub(crate) async fn up(progress: &Progress) -> anyhow::Result<Self> {
        Self::start(progress, false).await
    }

    /// Like [`Self::up`]; with `keep`, leaves the machines running if the start fails, for inspection.
    async fn start(progress: &Progress, keep: bool) -> anyhow::Result<Self> {
        prerequisites::check_privileges()?;
        let paths = Paths::from_environment()?;
        let _lock = lock(&paths)?;
        let (state, found) = start::start(&paths, progress, keep).await?;
        Ok(Self::of(paths, state, found))
    }

    fn of(paths: Paths, state: State, found: Found) -> Self {
        Self {
            paths,
            state,
            found,
            booted: Mutex::default(),
        }
    }

    /// Attaches to the running lab, also if it was started in another directory.
    pub(crate) fn attach() -> anyhow::Result<Self> {
        let mut paths = Paths::from_environment()?;
        let mut state = State::load(&paths);
        if state.is_none()
            && let Some(folder) = cgroup::folder()?
        {
            eprintln!("lab: using the lab in {}", folder.display());
            paths = Paths::at(folder);
            state = State::load(&paths);
        }
        let state = state.context("no lab is running; `cargo lab up` starts one")?;
        Ok(Self::of(paths, state, Found::Running))
    }

    /// Where the relays are.
    pub(crate) fn topology(&self) -> &Topology {
        &self.state.topology
    }

    /// Runs a command in a machine as root, and kills it after 60 s.
    pub(crate) async fn exec(&self, machine: &str, argv: &[&str]) -> anyhow::Result<Output> {
        container::exec(self.leader(machine)?, argv).await
    }

    /// CPU time and memory of each unit of a machine.
    pub(crate) fn usage(&self, machine: &str) -> anyhow::Result<BTreeMap<String, Usage>> {
        cgroup::usage(machine)
    }

    /// Messages in a relay's queue.
    #[cfg(feature = "scenarios")]
    pub(crate) async fn queue(
        &self,
        machine: &str,
    ) -> anyhow::Result<Vec<chatmail_core::postqueue::Message>> {
        let listed = container::capture(self.leader(machine)?, &["postqueue", "-j"]).await?;
        chatmail_core::postqueue::parse(&listed).with_context(|| format!("postqueue printed {listed}"))
    }

    /// Messages that a machine logged after `since`, from one unit or all.
    pub(crate) async fn journal(
        &self,
        machine: &str,
        unit: Option<&str>,
        since: &Cursor,
    ) -> anyhow::Result<Vec<String>> {
        journal::since(self.leader(machine)?, unit, since).await
    }

    /// The current end of a machine's journal.
    pub(crate) async fn cursor(&self, machine: &str) -> anyhow::Result<Cursor> {
        journal::cursor(self.leader(machine)?).await
    }

    /// Waits for the first message after `since` that contains `want`.
    pub(crate) async fn follow(
        &self,
        machine: &str,
        unit: Option<&str>,
        since: &Cursor,
        want: &str,
        deadline: Duration,
    ) -> anyhow::Result<String> {
        journal::follow(self.leader(machine)?, unit, since, want, deadline).await
    }

    /// The machine's file tree on the host: everything except `/usr`, `/run`, `/tmp` and our programs.
    pub(crate) fn root(&self, machine: &str) -> PathBuf {
        self.paths.machine(machine)
    }

    /// Starts the iroh relay on every relay. The first call on a computer builds it, which takes minutes.
    pub(crate) async fn iroh_relay(&self) -> anyhow::Result<()> {
        start::build_iroh_relay(&self.paths).await?;
        for relay in &self.topology().relays {
            start::start_iroh_relay(self.leader(&relay.name)?).await?;
        }
        Ok(())
    }

    /// Switches a machine from one rendered host to another, with an imitation of `nixos-rebuild switch`. The names are
    /// the HOST of `tests/rendered/lab-HOST`.
    pub(crate) async fn switch(&self, machine: &str, from: &str, to: &str) -> anyhow::Result<Plan> {
        let generation = |host| relay_files::RelayFiles::of(host)?.generation();
        let (from, to) = (generation(from)?, generation(to)?);
        let plan = switch::switch(&self.root(machine), self.leader(machine)?, &from, &to).await?;
        let sources = start::site_sources();
        relay_files::build_site(&self.paths.programs(), &self.root(machine), &sources)?;
        Ok(plan)
    }

    /// Loads a zone into the lab's name server, and replaces an earlier zone of that name.
    pub(crate) async fn publish(&self, zone: &str, text: &str) -> anyhow::Result<()> {
        dns::publish(&self.root(dns::NAME), self.leader(dns::NAME)?, &[(zone, text)]).await
    }

    /// Removes a zone from the lab's name server; the zone above it answers for its names again.
    pub(crate) async fn withdraw(&self, zone: &str) -> anyhow::Result<()> {
        dns::withdraw(&self.root(dns::NAME), self.leader(dns::NAME)?, zone).await
    }

    /// A certificate chain for these names that every relay trusts, and its key; both PEM.
    pub(crate) fn certificate(&self, names: &[String]) -> anyhow::Result<(String, String)> {
        let signed = ca::Ca::ensure(&self.paths)?.sign(names)?;
        Ok((signed.chain, signed.key))
    }

    /// Stops the lab, unless it was already running when this process attached to it. Returns which was the case.
    pub(crate) async fn release(self) -> anyhow::Result<Found> {
        if self.found == Found::Nothing {
            if let Some(cpu) = cgroup::total_cpu_time() {
                Progress::silent().record_cpu("The relays, in their containers", cpu);
            }
            let _lock = lock(&self.paths)?;
            start::end(&self.paths)?;
        }
        Ok(self.found)
    }

    /// Shuts a machine down, as its power button would, and waits until all of its processes have ended.
    pub(crate) async fn power_off(&self, machine: &str) -> anyhow::Result<()> {
        start::power_off(machine, self.leader(machine)?).await
    }

    /// Boots a relay again from its file tree, and waits until every unit is active.
    pub(crate) async fn power_on(&self, machine: &str) -> anyhow::Result<()> {
        self.power_on_with(machine, None).await
    }

    /// Like [`Self::power_on`], with limits on its processors and memory.
    pub(crate) async fn power_on_with(&self, machine: &str, size: Option<Size>) -> anyhow::Result<()> {
        let relay = self.topology().relay(machine);
        let relay = relay.with_context(|| format!("the lab has no relay `{machine}`"))?;
        let leader = start::power_on(&self.paths, relay, size).await?;
        self.record(machine, leader, true)
    }

    /// Stores the new first process of a machine. With `usable` false, no later run uses this lab.
    fn record(&self, machine: &str, leader: Leader, usable: bool) -> anyhow::Result<()> {
        let mut booted = self.booted.lock().unwrap_or_else(PoisonError::into_inner);
        booted.insert(machine.to_owned(), leader);
        let mut state = self.state.clone();
        for known in &mut state.machines {
            known.leader = booted.get(&known.name).copied().unwrap_or(known.leader);
        }
        if !usable {
            state.build.clear();
        }
        state.save(&self.paths)
    }

    /// What builds NixOS systems from these parts of nixpkgs, with the packages of this release of Debian.
    #[cfg(feature = "scenarios")]
    pub(crate) async fn builder(&self, lib: &Path, tree: &Path, suite: &str) -> anyhow::Result<Builder> {
        Builder::new(&self.paths, &self.topology().relays, lib, tree, suite).await
    }

    /// Shuts a relay down, and boots a NixOS system with an empty file tree in its place.
    #[cfg(feature = "scenarios")]
    pub(crate) async fn replace(
        &self,
        machine: &str,
        builder: &Builder,
        system: &System,
    ) -> anyhow::Result<()> {
        let relay = self.topology().relay(machine);
        let relay = relay.with_context(|| format!("the lab has no relay `{machine}`"))?;
        self.power_off(machine).await?;
        builder.make_tree(&self.paths, relay)?;
        self.boot_system(machine, builder, system).await?;
        if relay.is_named() {
            let leader = self.leader(machine)?;
            let zone = container::capture(leader, &["chatmail", "dns", "--zone"]).await?;
            self.publish(&relay.domain, &zone).await?;
        }
        Ok(())
    }

    /// Boots a NixOS system from the file tree that is there.
    #[cfg(feature = "scenarios")]
    pub(crate) async fn boot_system(
        &self,
        machine: &str,
        builder: &Builder,
        system: &System,
    ) -> anyhow::Result<()> {
        let leader = builder.boot(&self.paths, machine, system).await?;
        self.record(machine, leader, false)?;
        // Waits until systemd has no job left. The caller looks at the units.
        container::exec(leader, &["systemctl", "is-system-running", "--wait"]).await?;
        Ok(())
    }

    /// Takes IPv4 away from a relay that is about to be replaced, until [`Self::restore`]; returns its address.
    #[cfg(feature = "scenarios")]
    pub(crate) fn only_ipv6(&self, machine: &str) -> anyhow::Result<Ipv6Addr> {
        let relay = self.topology().relay(machine);
        let relay = relay.with_context(|| format!("the lab has no relay `{machine}`"))?;
        dns::answer_over_ipv6(&self.root(dns::NAME))?;
        network::only_ipv6(machine, relay.ipv4, dns::NAME, dns::ADDRESS)
    }

    /// Takes everything but these paths away from a NixOS system that is shut down.
    #[cfg(feature = "scenarios")]
    pub(crate) fn keep_only(&self, machine: &str, builder: &Builder, kept: &[String]) -> anyhow::Result<()> {
        builder.keep_only(&self.paths, machine, kept)
    }

    /// Shuts a NixOS system down and boots the relay in whose place it was; does nothing if there is none.
    #[cfg(feature = "scenarios")]
    pub(crate) async fn restore(&self, machine: &str) -> anyhow::Result<()> {
        if !nixos::replaced(&self.paths, machine) {
            return Ok(());
        }
        self.power_off(machine).await?;
        nixos::restore_tree(&self.paths, machine)?;
        if let Some(relay) = self.topology().relay(machine) {
            network::only_ipv4(machine, relay.ipv4)?;
        }
        self.power_on(machine).await
    }

    /// What a machine with limits has used since it was booted.
    pub(crate) fn used(&self, machine: &str) -> anyhow::Result<Used> {
        size::used(machine)
    }

    fn leader(&self, machine: &str) -> anyhow::Result<Leader> {
        let booted = self.booted.lock().unwrap_or_else(PoisonError::into_inner);
        match booted.get(machine) {
            Some(leader) => Ok(*leader),
            None => self.state.leader(machine),
        }
    }
}

/// Directory for programs that the lab downloads.
pub(crate) fn cache() -> anyhow::Result<PathBuf> {
    Ok(Paths::from_environment()?.base().clone())
}

/// A second address of the host, other than the one that the lab's clients connect from.
pub(crate) fn other_host_address() -> anyhow::Result<Ipv4Addr> {
    network::other_host()
}

/// Addresses for servers that fail, as a machine sees them: the first never answers, the others are the host's.
pub(crate) fn dead_addresses(machine: &str, number: usize) -> anyhow::Result<Vec<Ipv4Addr>> {
    network::dead(machine, number)
}

/// Installs what is missing for a need that becomes known only while the lab runs.
pub(crate) fn install(need: Need) -> anyhow::Result<()> {
    prerequisites::ensure(&Paths::from_environment()?, &Progress::new(), &[need])
}

/// Network namespace for clients that can only connect to port 443.
pub(crate) fn guest_network() -> PathBuf {
    network::namespace_file(network::GUEST.0)
}

/// Waits until no other `cargo lab` is starting or stopping the machines.
fn lock(paths: &Paths) -> anyhow::Result<Flock<fs::File>> {
    let file = fs::File::create(paths.lock()).context("cannot open the lab's lock")?;
    Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, error)| anyhow::anyhow!("cannot lock the lab: {error}"))
}
