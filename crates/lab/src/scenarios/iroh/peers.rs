//! Real iroh, of the version that Delta Chat has: two endpoints in a program of their own.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use sha2::{Digest as _, Sha256};
use tokio::process::Command;

use crate::{cargo_install, project};

/// The program, below the root of the source tree.
const SOURCE: &str = "crates/lab/iroh-peers";

/// What it is made from.
const FILES: [&str; 3] = [
    include_str!("../../../iroh-peers/Cargo.toml"),
    include_str!("../../../iroh-peers/Cargo.lock"),
    include_str!("../../../iroh-peers/src/main.rs"),
];

/// The program gives up earlier and says why.
const DEADLINE: Duration = Duration::from_secs(60);

/// Builds the program into `cache` when it is not there yet.
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

/// The program that has two endpoints meet.
pub(crate) struct Peers {
    program: std::path::PathBuf,
}

impl Peers {
    /// Fails unless two endpoints that know of each other's key and this relay only can write to each other.
    pub(crate) async fn meet(&self, url: &str, resolver: IpAddr) -> anyhow::Result<()> {
        let resolver = SocketAddr::new(resolver, 53).to_string();
        let output = Command::new(&self.program)
            .args([url, &resolver])
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(DEADLINE, output)
            .await
            .context("iroh-peers does not end")?
            .context("cannot run iroh-peers")?;
        ensure!(
            output.status.success(),
            "iroh-peers {url}: {}",
            String::from_utf8_lossy(&output.stderr).trim_end()
        );
        Ok(())
    }
}
