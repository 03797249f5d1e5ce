//! chromedriver, and how Chromium is started by it.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use rustls::server::ParsedCertificate;
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncBufReadExt as _, BufReader, Lines};
use tokio::process::{Child, ChildStdout, Command};

use crate::topology::Topology;

/// Nothing that a browser is asked for takes longer.
pub(super) const STEP: Duration = Duration::from_secs(30);

/// Profiles and caches lie in memory and go with the processes.
const IN_MEMORY: &str = "mount -t tmpfs tmpfs /tmp && exec chromedriver --port=0";

/// Chromium's own business would stand among what pages ask for.
const ARGUMENTS: [&str; 11] = [
    "--headless=new",
    // The sandbox does not work for root.
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    // Bars beside the page would differ between machines.
    "--hide-scrollbars",
    "--force-color-profile=srgb",
];

/// A running chromedriver.
pub(super) struct Driver {
    /// Ends with this value; so do all browsers that it started, as it is the first process of their namespace.
    _child: Child,
    _output: Lines<BufReader<ChildStdout>>,
    /// Where it listens.
    pub(super) url: String,
}

impl Driver {
    /// Starts it at a free port of the loopback interface.
    pub(super) async fn start() -> anyhow::Result<Self> {
        let mut child = Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "--mount-proc"])
            .args(["sh", "-c", IN_MEMORY])
            .env("HOME", "/tmp")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .context("starting unshare")?;
        let stdout = child.stdout.take().context("no standard output")?;
        let mut output = BufReader::new(stdout).lines();
        let port = tokio::time::timeout(STEP, port(&mut output))
            .await
            .context("chromedriver does not say that it listens")??;
        Ok(Self {
            _child: child,
            _output: output,
            url: format!("http://127.0.0.1:{port}"),
        })
    }
}

async fn port(output: &mut Lines<BufReader<ChildStdout>>) -> anyhow::Result<u16> {
    while let Some(line) = output.next_line().await? {
        if let Some((_, port)) = line.split_once("started successfully on port ") {
            return port
                .trim_end_matches('.')
                .parse()
                .with_context(|| format!("no port: {line}"));
        }
    }
    bail!("chromedriver ended at once")
}

/// The command line of Chromium for a lab.
pub(super) fn arguments(topology: &Topology) -> Vec<String> {
    let mut arguments: Vec<String> = ARGUMENTS.map(str::to_owned).into();
    let known: String = topology
        .relays
        .iter()
        .map(|relay| format!("MAP {} {},", relay.domain, relay.ipv4))
        .collect();
    arguments.push(format!("--host-resolver-rules={known}MAP * ~NOTFOUND"));
    arguments
}

/// The key of a certificate as Chromium takes it: it trusts chains that hold this key.
pub(super) fn key_of(certificate: &Path) -> anyhow::Result<String> {
    let parse = || {
        let certificate = CertificateDer::from_pem_file(certificate)?;
        let key = ParsedCertificate::try_from(&certificate)?.subject_public_key_info();
        anyhow::Ok(BASE64_STANDARD.encode(Sha256::digest(key)))
    };
    parse().with_context(|| format!("reading {}", certificate.display()))
}
