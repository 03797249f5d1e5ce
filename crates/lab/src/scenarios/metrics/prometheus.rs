//! A Prometheus server and a node exporter on this machine, configured as in docs/metrics.md.

use std::fs;
use std::net::IpAddr;
use std::path::PathBuf;
use std::process::{Output, Stdio};

use anyhow::{Context as _, ensure};
use tokio::process::{Child, Command};

use super::figures::RELAY;
use crate::project;
use crate::scenarios::Context;

/// Ports of the node exporter and the server: not the default ones, which may be in use on this machine.
const NODE_EXPORTER: u16 = 19100;
const PORT: u16 = 19090;
/// Addresses of the relay and of its node exporter in the example configuration.
const EXAMPLE: &str = "relay.example.org";
const EXAMPLE_NODE: &str = "relay.example.org:9100";

/// Both programs; killed when dropped.
pub(super) struct Prometheus {
    url: String,
    /// Ports in the configuration.
    targets: usize,
    _server: Child,
    _node_exporter: Child,
    _folder: tempfile::TempDir,
}

/// Files in the repository that operators copy.
pub(super) fn documented(name: &str) -> PathBuf {
    project::root().join("docs/grafana").join(name)
}

impl Prometheus {
    /// Starts both with the documented configuration, changed to scrape the lab's relay every second.
    pub(super) async fn start(context: &Context) -> anyhow::Result<Self> {
        let host: IpAddr = context.topology.host.into();
        let relay = context.topology.relay(RELAY).context("no such relay")?.ipv4;
        let folder = tempfile::tempdir()?;
        let configuration = fs::read_to_string(documented("prometheus.yml"))?
            .replace(EXAMPLE_NODE, &format!("{host}:{NODE_EXPORTER}"))
            .replace(EXAMPLE, &relay.to_string())
            .replace("scrape_interval: 30s", "scrape_interval: 1s");
        let targets = configuration.matches("- targets:").count();
        let file = folder.path().join("prometheus.yml");
        fs::write(&file, configuration)?;
        fs::copy(documented("alerts.yml"), folder.path().join("alerts.yml"))?;
        promtool(&["check", "config", &file.display().to_string()]).await?;

        let textfiles = context.machines().root(RELAY).join("var/lib/node-exporter");
        let node_exporter = spawn(
            "prometheus-node-exporter",
            &[
                format!("--web.listen-address={host}:{NODE_EXPORTER}"),
                "--collector.disable-defaults".to_owned(),
                "--collector.filesystem".to_owned(),
                "--collector.textfile".to_owned(),
                format!("--collector.textfile.directory={}", textfiles.display()),
            ],
        )?;
        let server = spawn(
            "prometheus",
            &[
                format!("--config.file={}", file.display()),
                format!("--storage.tsdb.path={}", folder.path().join("data").display()),
                format!("--web.listen-address={host}:{PORT}"),
            ],
        )?;
        Ok(Self {
            url: format!("http://{host}:{PORT}"),
            targets,
            _server: server,
            _node_exporter: node_exporter,
            _folder: folder,
        })
    }

    /// Returns the number of ports that Prometheus scrapes.
    pub(super) fn targets(&self) -> usize {
        self.targets
    }

    /// Returns the current series of an expression, one per line.
    pub(super) async fn query(&self, expression: &str) -> anyhow::Result<Vec<String>> {
        let output = run(&["query", "instant", &self.url, expression]).await?;
        let errors = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(output.status.success(), "{expression}: {}", errors.trim());
        Ok(String::from_utf8_lossy(&output.stdout)
            .lines()
            .filter(|line| line.contains("=>"))
            .map(str::to_owned)
            .collect())
    }

    /// Whether Prometheus is ready.
    pub(super) async fn is_ready(&self) -> anyhow::Result<bool> {
        let answer = run(&["query", "instant", &self.url, "1"]).await?;
        Ok(answer.status.success())
    }
}

/// Runs promtool; errors quote its output.
pub(super) async fn promtool(arguments: &[&str]) -> anyhow::Result<()> {
    let output = run(arguments).await?;
    ensure!(
        output.status.success(),
        "promtool {}: {}{}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}

async fn run(arguments: &[&str]) -> anyhow::Result<Output> {
    Command::new("promtool")
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output()
        .await
        .context("cannot run promtool; install the Debian package prometheus")
}

fn spawn(program: &str, arguments: &[String]) -> anyhow::Result<Child> {
    Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true)
        .spawn()
        .with_context(|| format!("cannot run {program}; install the Debian package of that name"))
}
