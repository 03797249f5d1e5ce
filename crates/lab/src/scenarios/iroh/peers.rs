//! Real iroh endpoints of the version in Delta Chat: a separate program runs two of them.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::{cargo_install, project};

/// Source folder of the program, relative to the root of the source tree.
const SOURCE: &str = "crates/lab/iroh-peers";

/// Source files of the program.
const FILES: [&str; 3] = [
    include_str!("../../../iroh-peers/Cargo.toml"),
    include_str!("../../../iroh-peers/Cargo.lock"),
    include_str!("../../../iroh-peers/src/main.rs"),
];

/// Timeout of the program; the program itself times out earlier and reports why.
const DEADLINE: Duration = Duration::from_secs(60);

/// Builds the program into `cache` unless it is already there.
pub(crate) async fn prepare(cache: &Path) -> anyhow::Result<Peers> {
    let mut hash = Sha256::new();
    for text in FILES {
        hash.update(text);
        hash.update([0]);
    }
    let key: String = hash
        .finalize()
        .iter()
        .take(6)
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let source = project::root().join(SOURCE);
    let source = source.to_str().context("the source tree's path is not UTF-8")?;
    let folder = cargo_install::ensure(cache, &format!("iroh-peers-{key}"), &["--path", source]).await?;
    Ok(Peers {
        program: folder.join("bin/iroh-peers"),
    })
}

/// The program that connects two endpoints.
pub(crate) struct Peers {
    program: std::path::PathBuf,
}

impl Peers {
    /// Fails unless two endpoints that know only each other's key and this relay can exchange data.
    pub(crate) async fn meet(&self, url: &str, resolver: IpAddr) -> anyhow::Result<()> {
        let resolver = SocketAddr::new(resolver, 53).to_string();
        let output = Command::new(&self.program)
            .args([url, &resolver])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, output)
            .await
            .context("iroh-peers does not exit")?
            .context("cannot run iroh-peers")?;
        ensure!(
            output.status.success(),
            "iroh-peers {url}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(())
    }
}
