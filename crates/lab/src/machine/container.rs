//! A machine: its file tree, its boot, and commands that run in it.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail};
use lab_front::paths::Paths;
use tokio::net::UnixDatagram;
use tokio::process::Command;

use super::state::{Leader, Machine};
use super::{Size, cgroup, network, size};

/// How long systemd may take to start every unit or give up on it.
const BOOT_DEADLINE: Duration = Duration::from_secs(60);
/// How long a command in a machine may take.
const COMMAND_SECONDS: &str = "60";
/// Search path for commands in a machine; the first entry is that of NixOS.
const PATH: &str = "PATH=/run/current-system/sw/bin:/usr/sbin:/usr/bin";
/// Directories in a machine's own tree, with their modes.
const DIRECTORIES: [(&str, u32); 13] = [
    ("dev", 0o755),
    ("home", 0o755),
    ("mnt", 0o755),
    ("nix/store", 0o755),
    ("opt", 0o755),
    ("proc", 0o555),
    ("root", 0o700),
    ("run", 0o755),
    ("srv", 0o755),
    ("sys", 0o555),
    ("tmp", 0o1777),
    ("usr/lib", 0o755),
    ("var", 0o755),
];

/// Debian's dynamic linker; nix/boot/container.nix also names it.
const LINKER: &str = "/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2";

/// Creates the file tree of a machine again from scratch: `/etc` and `/var` are copies; `/usr` is shared and bound at
/// boot.
pub(super) fn make_tree(rootfs: &Path, root: &Path, name: &str) -> anyhow::Result<()> {
    if root.exists() {
        fs::remove_dir_all(root).with_context(|| format!("cannot remove {}", root.display()))?;
    }
    for (directory, mode) in DIRECTORIES {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for entry in fs::read_dir(rootfs)?
        .flatten()
        .filter(|entry| entry.path().is_symlink())
    {
        symlink(fs::read_link(entry.path())?, root.join(entry.file_name()))?;
    }
    // systemd-nspawn requires this file before it binds `/usr`.
    fs::copy(rootfs.join("usr/lib/os-release"), root.join("usr/lib/os-release"))?;
    let status = std::process::Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .args([rootfs.join("etc"), rootfs.join("var")])
        .arg(root)
        .status()
        .context("cannot run cp")?;
    if !status.success() {
        bail!(
            "cannot copy /etc and /var of {} to {}",
            rootfs.display(),
            root.display()
        );
    }
    // Without a machine ID, systemd treats the boot as the first one and enables all of Debian's units.
    fs::write(
        root.join("etc/machine-id"),
        format!("{:032x}\n", rand::random::<u128>() | 1),
    )?;
    fs::write(root.join("etc/hostname"), format!("{name}\n"))?;
    fs::write(root.join("etc/hosts"), "127.0.0.1 localhost\n::1 localhost\n")?;
    // Without this, systemd opens a socket for Debian's sshd that every process of the machine can reach.
    let generators = root.join("etc/systemd/system-generators");
    fs::create_dir_all(&generators)?;
    symlink("/dev/null", generators.join("systemd-ssh-generator"))?;
    Ok(())
}

/// How a machine is booted.
#[derive(Debug, Clone)]
pub(super) struct Boot {
    /// Name of the machine.
    pub(super) name: String,
    /// Debian tree whose `/usr` it shares.
    pub(super) rootfs: PathBuf,
    /// Read-only bind mounts: path on the host, path in the machine.
    pub(super) binds: Vec<(PathBuf, String)>,
    /// Limits of the whole machine.
    pub(super) size: Option<Size>,
    /// First program of a NixOS system; without it, Debian's systemd is the first.
    pub(super) init: Option<String>,
}

/// Folders of Debian's `/usr` that systemd reads in addition to those of NixOS. The systemd of nixpkgs does not read
/// them, so they are empty in a NixOS system.
const NOT_ON_NIXOS: [&str; 6] = [
    "/usr/lib/sysctl.d",
    "/usr/lib/systemd/system-generators",
    "/usr/lib/systemd/system-preset",
    "/usr/lib/sysusers.d",
    "/usr/lib/tmpfiles.d",
    "/usr/lib/udev/rules.d",
];
/// Folders of units on NixOS, for the same reason.
const UNITS_ON_NIXOS: &str = "SYSTEMD_UNIT_PATH=/etc/systemd-mutable/system:/etc/systemd/system:/run/systemd/system:\
    /run/systemd/transient:/run/systemd/generator";

/// Moves the shell into the groups before `--`, and runs the command after it.
const ENTER: &str = r#"while [ "$1" != -- ]; do echo $$ >"$1"; shift; done; shift; exec "$@""#;

/// Boots a machine and waits until systemd reports that it has booted.
pub(super) async fn boot(paths: &Paths, boot: &Boot) -> anyhow::Result<Machine> {
    let name = &boot.name;
    let mut groups = vec![cgroup::create(name)?.join("cgroup.procs")];
    if let Some(size) = boot.size {
        groups.extend(size::limit(name, size)?);
    }
    let folder = tempfile::tempdir()?;
    let notify = folder.path().join("notify");
    let socket = UnixDatagram::bind(&notify)?;
    let console = fs::File::create(paths.console(name))?;
    // The shell moves itself into the machine's cgroups before it becomes systemd-nspawn, so every process of the machine
    // starts in there. `setsid` keeps Ctrl-C at the lab's terminal from reaching the machine.
    let mut command = Command::new("setsid");
    command.args(["sh", "-e", "-c", ENTER, "sh"]).args(&groups);
    command.args([
        "--",
        "systemd-nspawn",
        "--quiet",
        "--register=no",
        "--keep-unit",
        "--notify-ready=yes",
    ]);
    command.args([
        "--resolv-conf=off",
        "--timezone=off",
        "--link-journal=no",
        "--console=read-only",
    ]);
    command.args(["--capability=CAP_NET_ADMIN", "--machine", name]);
    command.arg(format!("--directory={}", paths.machine(name).display()));
    command.arg(format!(
        "--network-namespace-path={}",
        network::namespace_file(name).display()
    ));
    command.arg(format!("--bind-ro={}:/usr", boot.rootfs.join("usr").display()));
    for (host, inside) in &boot.binds {
        command.arg(format!("--bind-ro={}:{inside}", host.display()));
    }
    match &boot.init {
        None => command.arg("--boot"),
        Some(init) => {
            command.args(NOT_ON_NIXOS.map(|folder| format!("--tmpfs={folder}")));
            // An immutable /var/empty could not be removed.
            command.arg("--drop-capability=CAP_LINUX_IMMUTABLE");
            command.arg(format!("--setenv={UNITS_ON_NIXOS}")).arg(init)
        }
    };
    // Debian 13 needs the cgroup2 layout in the machine, even on hosts with another one.
    command
        .env("SYSTEMD_NSPAWN_UNIFIED_HIERARCHY", "1")
        .env("NOTIFY_SOCKET", &notify);
    command
        .stdin(Stdio::null())
        .stdout(console.try_clone()?)
        .stderr(console);
    let mut process = command.spawn().context("cannot run systemd-nspawn")?;
    let up = tokio::time::timeout(BOOT_DEADLINE, async {
        tokio::select! {
            leader = ready(&socket) => leader,
            ended = process.wait() => bail!("systemd-nspawn exited early: {}", ended?),
        }
    });
    match up.await {
        Ok(Ok(leader)) => Ok(Machine {
            name: name.clone(),
            leader,
        }),
        Ok(Err(error)) => Err(error.context(complaint(paths, name))),
        Err(_) => bail!("{} within {} s", complaint(paths, name), BOOT_DEADLINE.as_secs()),
    }
}

fn complaint(paths: &Paths, name: &str) -> String {
    format!(
        "machine {name} did not boot (its console: {})",
        paths.console(name).display()
    )
}

/// Follows the messages of systemd-nspawn (sd_notify(3)) until the machine has booted.
async fn ready(socket: &UnixDatagram) -> anyhow::Result<Leader> {
    let mut leader = None;
    let mut buffer = [0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let message = String::from_utf8_lossy(buffer.get(..length).unwrap_or_default());
        for line in message.lines() {
            if let Some(pid) = line.strip_prefix("X_NSPAWN_LEADER_PID=") {
                leader = Some(Leader::of(pid.parse()?)?);
            }
            if line == "READY=1" {
                return leader.context("systemd-nspawn did not report the machine's first process");
            }
        }
    }
}

/// Creates the file tree of a NixOS system from scratch, with what a bootloader and the kernel's file system would
/// provide. The dynamic linker and the shells are Debian's; NixOS replaces `/bin/sh` when it boots.
pub(super) fn make_nixos_tree(rootfs: &Path, root: &Path) -> anyhow::Result<()> {
    for (directory, mode) in DIRECTORIES {
        let path = root.join(directory);
        fs::create_dir_all(&path).with_context(|| format!("cannot create {}", path.display()))?;
        fs::set_permissions(&path, fs::Permissions::from_mode(mode))?;
    }
    for directory in ["bin", "etc", "lib64"] {
        fs::create_dir(root.join(directory))?;
    }
    for (target, link) in [
        ("usr/lib", "lib"),
        ("/usr/bin/bash", "bin/bash"),
        (LINKER, "lib64/ld-linux-x86-64.so.2"),
    ] {
        symlink(target, root.join(link))?;
    }
    fs::copy(rootfs.join("usr/lib/os-release"), root.join("usr/lib/os-release"))?;
    Ok(())
}

/// A prefix for command lines: runs the rest in all namespaces of a machine, as root, with a clean environment.
pub(super) fn enter(leader: Leader, environment: &[&str]) -> Vec<String> {
    let pid = leader.pid.to_string();
    let mut line = vec![
        "nsenter", "--target", &pid, "--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup",
    ];
    line.extend([
        "--",
        "env",
        "--ignore-environment",
        "--chdir=/",
        PATH,
        "HOME=/root",
        "LANG=C.UTF-8",
    ]);
    line.extend(environment);
    line.into_iter().map(str::to_owned).collect()
}

/// A command in a machine. Dropping its `Child` kills `nsenter`, not the command itself.
pub(super) fn command(leader: Leader, argv: &[&str]) -> Command {
    let line = enter(leader, &[]);
    let mut command = Command::new("nsenter");
    command
        .args(line.iter().skip(1))
        .args(argv)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a command in a machine, and kills it after [`COMMAND_SECONDS`].
pub(super) async fn exec(leader: Leader, argv: &[&str]) -> anyhow::Result<Output> {
    // `timeout` runs in the machine, where it can kill the command itself.
    let mut limited = vec!["timeout", "--kill-after=5", COMMAND_SECONDS];
    limited.extend(argv);
    command(leader, &limited)
        .output()
        .await
        .context("cannot run nsenter")
}

/// Runs a command in a machine and returns its output; fails if the command fails.
pub(super) async fn capture(leader: Leader, argv: &[&str]) -> anyhow::Result<String> {
    let output = exec(leader, argv).await?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!("`{}` failed ({}): {}", argv.join(" "), output.status, said.trim());
    }
    String::from_utf8(output.stdout)
        .with_context(|| format!("the output of `{}` is not UTF-8", argv.join(" ")))
}
