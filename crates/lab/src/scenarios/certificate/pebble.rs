//! Pebble, an ACME server (RFC 8555) for tests, on the machine of the lab's name server.

use std::fs;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::tls::Tls;
use mailtest::until;

use crate::scenarios::Context;

/// Machine that runs Pebble; nix/eval/hosts/lab-e.nix contains the address and the port.
const MACHINE: &str = "dns";
const UNIT: &str = "pebble.service";
const FOLDER: &str = "/etc/pebble";
/// Pebble validates names on the relay's port 80, and serves its root certificate on loopback.
const CONFIGURATION: &str = r#"{"pebble": {
  "listenAddress": "0.0.0.0:14000",
  "managementListenAddress": "127.0.0.1:15000",
  "certificate": "/etc/pebble/fullchain.pem",
  "privateKey": "/etc/pebble/key.pem",
  "httpPort": 80,
  "tlsPort": 443
}}
"#;
const ROOT: &str = "https://127.0.0.1:15000/roots/0";

/// Restarts the server with a new root; returns TLS settings that trust it.
pub(super) async fn start(context: &Context) -> anyhow::Result<Tls> {
    stop(context).await?;
    let lab = context.machines();
    let folder = lab.root(MACHINE).join(FOLDER.trim_start_matches('/'));
    let (chain, key) = lab.certificate(&[context.topology.resolver.to_string()])?;
    fs::create_dir_all(&folder)?;
    for (name, text) in [
        ("config.json", CONFIGURATION),
        ("fullchain.pem", &chain),
        ("key.pem", &key),
    ] {
        fs::write(folder.join(name), text).with_context(|| format!("cannot write {name}"))?;
    }
    let unit = format!("--unit={UNIT}");
    let configuration = format!("{FOLDER}/config.json");
    // By default, Pebble waits some seconds before it validates a name.
    let mut line = vec![
        "systemd-run",
        "--quiet",
        "--collect",
        &unit,
        "--setenv=PEBBLE_VA_NOSLEEP=1",
    ];
    line.extend(["pebble", "-config", &configuration, "-dnsserver", "127.0.0.1:53"]);
    context.run(MACHINE, &line).await?;

    // Pebble does not notify when it is ready.
    let root = until(Duration::from_secs(10), || async {
        let asked = lab
            .exec(MACHINE, &["curl", "--silent", "--insecure", ROOT])
            .await?;
        Ok(asked.status.success().then_some(asked.stdout))
    });
    let root = root.await.context("Pebble does not respond")?;
    let file = tempfile::NamedTempFile::new()?;
    fs::write(file.path(), root)?;
    Tls::with_ca(file.path()).context("Pebble's root certificate")
}

/// Stops the server if it is running.
pub(super) async fn stop(context: &Context) -> anyhow::Result<()> {
    let stopped = context
        .machines()
        .exec(MACHINE, &["systemctl", "stop", UNIT])
        .await?;
    // systemctl(1): status 5 means that the unit is not loaded.
    ensure!(
        matches!(stopped.status.code(), Some(0 | 5)),
        "cannot stop Pebble: {}",
        String::from_utf8_lossy(&stopped.stderr)
    );
    Ok(())
}
