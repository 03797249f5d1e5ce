//! Starts and stops the relays.

use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use lab_front::paths::Paths;
use lab_front::progress::Progress;
use lab_front::rootfs;
use mailtest::topology::{Certificate, Relay, Topology};
use sha2::{Digest as _, Sha256};
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinSet;

use super::ca::{self, Ca, Signed};
use super::container::{self, Boot};
use super::packages::IROH_RELAY_UNIT;
use super::relay_files::{EXTERNAL_TLS, RelayFiles, build_site};
use super::state::{Leader, Machine, State};
use super::{Size, cgroup, dns, limits, network, packages, services};
use crate::cargo_install;
use crate::project;

/// Name, domain, last byte of the address, certificate.
const RELAYS: [(&str, &str, u8, Certificate); 5] = [
    ("a", "_a.test", 11, Certificate::SelfSigned),
    ("b", "_b.test", 12, Certificate::SelfSigned),
    ("c", "c.test", 13, Certificate::LabCa),
    ("d", "198.18.25.14", 14, Certificate::SelfSigned),
    ("e", "e.test", 15, Certificate::Acme),
];

/// Port of the iroh relay, and how long it may take to listen there.
const IROH_RELAY_PORT: &str = ":3340";
const IROH_RELAY_DEADLINE: Duration = Duration::from_secs(20);

/// Measured duration of a start.
const START: Duration = Duration::from_secs(10);

/// How long a machine may take to shut down, and how often the lab checks.
const POWER_OFF_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What ran before a lab was started.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing, or machines of another build, which were stopped.
    Nothing,
    /// A lab of the same build, to which this process attached.
    Running,
}

/// Starts the lab, or returns the state of a running one of the same build.
///
/// With `keep`, leaves the machines running if the start fails, for inspection.
pub(super) async fn start(paths: &Paths, progress: &Progress, keep: bool) -> anyhow::Result<(State, Found)> {
    let topology = topology(paths);
    let programs = services::built()?;
    let mut relay_files = Vec::new();
    for relay in &topology.relays {
        relay_files.push((relay.clone(), RelayFiles::of(&relay.name)?));
    }
    let build = build(&programs, &relay_files)?;
    if let Some(state) = State::load(paths).filter(|state| state.build == build) {
        progress.say("The relays are already running");
        return Ok((state, Found::Running));
    }
    if let Some(folder) = cgroup::folder()?.filter(|folder| folder != paths.base()) {
        let folder = folder.display();
        bail!(
            "another lab is running with its files in {folder}: set CHATMAIL_LAB_DIR={folder} to use it, or stop it \
             with `cargo lab down`"
        );
    }
    end(paths)?;
    for line in limits::raise()? {
        progress.say(line);
    }
    publish_iroh_relay(paths)?;
    let plan = Plan {
        rootfs: rootfs::installed(paths).context("Debian is not installed; `cargo lab` installs it")?,
        programs,
        relay_files,
        topology,
        build,
    };
    let started = tokio::select! {
        started = plan.carry_out(paths, progress) => started,
        signal = interrupted() => Err(signal),
    };
    if started.is_err() && !keep {
        end(paths).context("cannot stop what was started")?;
    }
    Ok((started?, Found::Nothing))
}

/// Shuts a machine down and waits until all of its processes have ended.
pub(super) async fn power_off(name: &str, leader: Leader) -> anyhow::Result<()> {
    // The status is ignored because the shutdown may kill this command too.
    container::exec(leader, &["systemctl", "poweroff", "--no-block"]).await?;
    let end = Instant::now() + POWER_OFF_DEADLINE;
    while leader.alive() {
        ensure!(Instant::now() < end, "machine {name} does not shut down");
        tokio::time::sleep(POLL).await;
    }
    cgroup::end(name)
}

/// Boots a relay again from its file tree, and waits until every unit is active.
pub(super) async fn power_on(paths: &Paths, relay: &Relay, size: Option<Size>) -> anyhow::Result<Leader> {
    let boot = Boot {
        size,
        ..boot(&paths.rootfs(&rootfs::key()), paths, &relay.name, true)
    };
    let machine = container::boot(paths, &boot).await?;
    check_units(paths, machine.leader, relay, &RelayFiles::of(&relay.name)?).await?;
    Ok(machine.leader)
}

/// Certificates that an operator provides, each with its folder: those of a relay with [`Certificate::LabCa`].
pub(super) fn certificates(ca: &Ca, relay: &Relay) -> anyhow::Result<Vec<(&'static str, Signed)>> {
    Ok(match relay.certificate {
        Certificate::SelfSigned | Certificate::Acme => Vec::new(),
        Certificate::LabCa => {
            let [own, site] = EXTERNAL_TLS;
            let site_name = format!("site.{}", relay.domain);
            vec![
                (own, ca.sign(&names(&relay.domain))?),
                (site, ca.sign(&[site_name])?),
            ]
        }
    })
}

/// How a machine is booted; our programs are bound into relays.
fn boot(rootfs: &Path, paths: &Paths, name: &str, relay: bool) -> Boot {
    let programs = [
        (packages::OURS, paths.programs()),
        (packages::IROH_RELAY, iroh_relay(paths)),
    ];
    let binds = programs.map(|(package, folder)| (folder, format!("/nix/store/{package}/bin")));
    Boot {
        name: name.to_owned(),
        rootfs: rootfs.to_owned(),
        binds: if relay { binds.into() } else { Vec::new() },
        size: None,
        init: None,
    }
}

/// Waits for SIGINT or SIGTERM and returns an error that names it, so that the caller stops what it started. From the
/// first call on, neither signal ends this process.
pub(crate) async fn interrupted() -> anyhow::Error {
    let signals = signal(SignalKind::interrupt()).and_then(|one| Ok((one, signal(SignalKind::terminate())?)));
    match signals {
        Ok((mut interrupt, mut terminate)) => tokio::select! {
            _ = interrupt.recv() => anyhow::anyhow!("interrupted"),
            _ = terminate.recv() => anyhow::anyhow!("terminated"),
        },
        Err(error) => anyhow::anyhow!("cannot catch signals: {error}"),
    }
}

/// Stops all machines and removes the network and the state, also of a lab that was started in another directory.
pub(super) fn end(paths: &Paths) -> anyhow::Result<()> {
    let other = cgroup::folder()?;
    cgroup::kill_all()?;
    let names: Vec<_> = RELAYS
        .iter()
        .map(|(name, ..)| *name)
        .chain([dns::NAME, network::GUEST.0])
        .collect();
    network::remove(&names)?;
    let other = other.map(Paths::at);
    for paths in [Some(paths), other.as_ref()].into_iter().flatten() {
        for path in [paths.state(), paths.resolv_conf()] {
            match fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).with_context(|| format!("cannot remove {}", path.display()));
                }
                _ => (),
            }
        }
    }
    Ok(())
}

fn topology(paths: &Paths) -> Topology {
    let [one, two, three, _] = network::HOST.octets();
    let relay = |(name, domain, last, certificate): (&str, &str, u8, Certificate)| Relay {
        name: name.to_owned(),
        domain: domain.to_owned(),
        ipv4: Ipv4Addr::new(one, two, three, last),
        ipv6: None,
        certificate,
        invitation: None,
        accounts: Vec::new(),
    };
    Topology {
        relays: RELAYS.map(relay).into(),
        resolver: dns::ADDRESS,
        host: network::HOST,
        ca_file: paths.ca_certificate(),
    }
}

/// A hash of everything that the relays are made from.
fn build(programs: &[PathBuf], relay_files: &[(Relay, RelayFiles)]) -> anyhow::Result<String> {
    let mut hash = Sha256::new();
    let mut add = |part: &[u8]| {
        hash.update(part.len().to_le_bytes());
        hash.update(part);
    };
    add(rootfs::key().as_bytes());
    for source in [
        include_str!("container.rs"),
        include_str!("generation.rs"),
        include_str!("packages.rs"),
        include_str!("relay_files.rs"),
    ] {
        add(source.as_bytes());
    }
    for program in programs {
        add(&fs::read(program).with_context(|| format!("cannot read {}", program.display()))?);
    }
    for (relay, files) in relay_files {
        add(relay.name.as_bytes());
        for (file, text) in files.texts() {
            add(file.as_os_str().as_encoded_bytes());
            add(text.as_bytes());
        }
    }
    let site = site_sources();
    for file in project::files_below(&site)? {
        add(file.as_os_str().as_encoded_bytes());
        add(&fs::read(site.join(&file)).with_context(|| format!("cannot read {}", file.display()))?);
    }
    Ok(hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect())
}

/// Sources of the relays' web site.
pub(super) fn site_sources() -> PathBuf {
    project::root().join("www")
}

/// Folder with the iroh relay, which is bound into the relays when they boot. It is empty until the program is built:
/// only realtime connections need it, and it takes longer to build than everything else.
pub(super) fn iroh_relay(paths: &Paths) -> PathBuf {
    paths.base().join(format!("{}-bin", packages::IROH_RELAY_BUILD))
}

/// Whether the folder contains the iroh relay.
fn has_iroh_relay(paths: &Paths) -> bool {
    iroh_relay(paths).join(packages::IROH_RELAY).exists()
}

/// Copies the iroh relay into that folder if it is built.
fn publish_iroh_relay(paths: &Paths) -> anyhow::Result<()> {
    let folder = iroh_relay(paths);
    fs::create_dir_all(&folder).with_context(|| format!("cannot create {}", folder.display()))?;
    let built = paths
        .base()
        .join(packages::IROH_RELAY_BUILD)
        .join("bin")
        .join(packages::IROH_RELAY);
    if has_iroh_relay(paths) || !built.exists() {
        return Ok(());
    }
    // Renamed at the end, so that no relay sees an incomplete file.
    let partial = folder.join("partial");
    fs::copy(&built, &partial)
        .and_then(|_| fs::rename(&partial, folder.join(packages::IROH_RELAY)))
        .with_context(|| format!("cannot copy {}", built.display()))
}

/// Builds the iroh relay if necessary, and copies it to where the relays see it.
pub(super) async fn build_iroh_relay(paths: &Paths) -> anyhow::Result<()> {
    cargo_install::ensure(
        paths.base(),
        packages::IROH_RELAY_BUILD,
        &packages::IROH_RELAY_SOURCE,
    )
    .await?;
    publish_iroh_relay(paths)
}

/// Starts the iroh relay in a machine, and waits until it listens.
pub(super) async fn start_iroh_relay(leader: Leader) -> anyhow::Result<()> {
    container::capture(leader, &["systemctl", "start", IROH_RELAY_UNIT]).await?;
    let end = Instant::now() + IROH_RELAY_DEADLINE;
    // The unit is active before the program listens, and the program reports nothing when it does.
    let listening = ["ss", "-Hltn", "sport", "=", IROH_RELAY_PORT];
    while container::capture(leader, &listening).await?.trim().is_empty() {
        ensure!(
            Instant::now() < end,
            "{IROH_RELAY_UNIT} is not listening on port {IROH_RELAY_PORT}"
        );
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

/// Everything that is known before the first machine is created.
struct Plan {
    rootfs: PathBuf,
    programs: Vec<PathBuf>,
    relay_files: Vec<(Relay, RelayFiles)>,
    topology: Topology,
    build: String,
}

impl Plan {
    async fn carry_out(self, paths: &Paths, progress: &Progress) -> anyhow::Result<State> {
        let phase = progress.phase("Starting the relays", Some(START));
        services::stage(&self.programs, &paths.programs())?;
        let ca = Ca::ensure(paths)?;
        let mut machines = vec![(dns::NAME, dns::ADDRESS), network::GUEST];
        machines.extend(
            self.topology
                .relays
                .iter()
                .map(|relay| (relay.name.as_str(), relay.ipv4)),
        );
        network::create(&machines)?;
        network::close_ports()?;

        let mut boots = JoinSet::new();
        container::make_tree(&self.rootfs, &paths.machine(dns::NAME), dns::NAME)?;
        dns::apply(&paths.machine(dns::NAME))?;
        self.boot(paths, dns::NAME, false, &mut boots)?;
        for (relay, files) in &self.relay_files {
            let root = paths.machine(&relay.name);
            container::make_tree(&self.rootfs, &root, &relay.name)?;
            let certificates = certificates(&ca, relay)?;
            files.apply(&root, &services::names(&self.programs), &certificates)?;
            build_site(&paths.programs(), &root, &site_sources())?;
            ca::trust(&ca.certificate, &root)?;
            self.boot(paths, &relay.name, true, &mut boots)?;
        }
        let mut machines = Vec::new();
        while let Some(booted) = boots.join_next().await {
            machines.push(booted??);
        }
        machines.sort_by(|one, other| one.name.cmp(&other.name));
        // No run attaches to a state without a build, but `cargo lab shell` and `logs` already work.
        let mut state = State {
            build: String::new(),
            topology: self.topology,
            machines,
        };
        state.save(paths)?;

        let mut zones = Vec::new();
        for (relay, files) in &self.relay_files {
            let leader = state.leader(&relay.name)?;
            check_units(paths, leader, relay, files).await?;
            if !relay.is_named() {
                continue;
            }
            let zone = container::capture(leader, &["chatmail", "dns", "--zone"]).await?;
            zones.push((relay.domain.clone(), zone));
        }
        let zones: Vec<_> = zones
            .iter()
            .map(|(zone, text)| (zone.as_str(), text.as_str()))
            .collect();
        dns::publish(&paths.machine(dns::NAME), state.leader(dns::NAME)?, &zones).await?;
        fs::write(paths.resolv_conf(), resolv_conf(dns::ADDRESS))?;
        state.build = self.build;
        state.save(paths)?;
        phase.done(None);
        Ok(state)
    }

    fn boot(
        &self,
        paths: &Paths,
        name: &str,
        relay: bool,
        boots: &mut JoinSet<anyhow::Result<Machine>>,
    ) -> anyhow::Result<()> {
        // Every machine uses its own resolver; those of the relays forward to the lab's.
        fs::write(
            paths.machine(name).join("etc/resolv.conf"),
            resolv_conf(Ipv4Addr::LOCALHOST),
        )?;
        let boot = boot(&self.rootfs, paths, name, relay);
        let paths = paths.clone();
        boots.spawn(async move { container::boot(&paths, &boot).await });
        Ok(())
    }
}

/// Names in the certificate of a relay.
fn names(domain: &str) -> Vec<String> {
    ["", "www.", "mta-sts."]
        .map(|prefix| format!("{prefix}{domain}"))
        .into()
}

/// Fails with the state and the last log lines of every unit that should be active and is not.
async fn check_units(paths: &Paths, leader: Leader, relay: &Relay, files: &RelayFiles) -> anyhow::Result<()> {
    // Waits until systemd has no job left. The status is ignored: failed units are reported one by one below.
    container::exec(leader, &["systemctl", "is-system-running", "--wait"]).await?;
    let mut units = files.lasting_units()?;
    if !has_iroh_relay(paths) {
        units.remove(IROH_RELAY_UNIT);
    }
    let mut argv = vec!["systemctl", "is-active", "--"];
    argv.extend(units.iter().map(String::as_str));
    let output = container::exec(leader, &argv).await?;
    let states = String::from_utf8_lossy(&output.stdout).into_owned();
    let failed: Vec<_> = units
        .iter()
        .zip(states.lines())
        .filter(|(_, state)| *state != "active")
        .collect();
    if failed.is_empty() && output.status.success() {
        return Ok(());
    }
    let mut report = String::new();
    for (unit, state) in failed {
        let log = [
            "journalctl",
            "--quiet",
            "--output=cat",
            "--lines=15",
            "--unit",
            unit,
        ];
        let log = container::capture(leader, &log).await?;
        report.push_str(&format!("\n{unit} is {state}; it logged:\n{log}"));
    }
    bail!("relay {}: some units are not active{report}", relay.name)
}

/// A resolv.conf(5) with short timeouts: the lab's servers answer at once or not at all.
fn resolv_conf(server: Ipv4Addr) -> String {
    format!("nameserver {server}\noptions timeout:1 attempts:2\n")
}
