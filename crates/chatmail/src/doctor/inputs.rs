//! What the checks know before they look.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use chatmail_core::Settings;
use tempfile::TempDir;
use tokio::sync::OnceCell;

use crate::dial::Ssh;
use crate::dns;

/// The relay, and what the operator gave.
pub(super) struct Inputs {
    pub(super) settings: Settings,
    /// File of the settings, for other programs of ours.
    pub(super) file: PathBuf,
    /// Domains whose mail servers are tried.
    pub(super) mx_of: Vec<String>,
    /// Another machine.
    pub(super) from: Option<Ssh>,
    /// Compared records, which several checks judge.
    records: OnceCell<Result<Vec<dns::Finding>, String>>,
    /// Contains the control socket of SSH.
    _folder: TempDir,
}

impl Inputs {
    pub(super) fn new(
        settings: &Settings,
        file: &Path,
        mx_of: &[String],
        from: Option<&str>,
    ) -> anyhow::Result<Self> {
        let folder = tempfile::tempdir().context("cannot create a temporary folder")?;
        if let Some(host) = from {
            anyhow::ensure!(!host.starts_with('-'), "{host:?} is not a machine for ssh");
        }
        Ok(Self {
            settings: settings.clone(),
            file: file.to_owned(),
            mx_of: mx_of.to_vec(),
            from: from.map(|host| Ssh {
                host: host.to_owned(),
                control: folder.path().join("ssh"),
            }),
            records: OnceCell::new(),
            _folder: folder,
        })
    }

    /// The records of the relay, queried once.
    pub(super) async fn records(&self) -> anyhow::Result<&[dns::Finding]> {
        let records = self
            .records
            .get_or_init(async || {
                dns::findings(&self.settings)
                    .await
                    .map_err(|error| format!("{error:#}"))
            })
            .await;
        records.as_deref().map_err(|error| anyhow::anyhow!(error.clone()))
    }

    /// Whether the relay has a domain name, and with it records.
    pub(super) fn is_named(&self) -> bool {
        !self.settings.domain.starts_with('[')
    }
}
