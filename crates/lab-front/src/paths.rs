//! Paths of the lab's files on the host.

use std::path::PathBuf;

use anyhow::Context as _;

/// The lab's directory: `CHATMAIL_LAB_DIR`, or `chatmail-lab` in the user's cache directory.
#[derive(Debug, Clone)]
pub struct Paths {
    base: PathBuf,
}

impl Paths {
    /// Finds the directory from the environment, and creates it.
    ///
    /// # Errors
    ///
    /// If the environment names no directory, or it cannot be created.
    pub fn from_environment() -> anyhow::Result<Self> {
        let absolute = |name: &str| {
            std::env::var_os(name)
                .map(PathBuf::from)
                .filter(|path| path.is_absolute())
        };
        let base = match absolute("CHATMAIL_LAB_DIR") {
            Some(path) => path,
            None => absolute("XDG_CACHE_HOME")
                .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
                .context("set CHATMAIL_LAB_DIR or HOME to an absolute path: the lab stores its files there")?
                .join("chatmail-lab"),
        };
        std::fs::create_dir_all(&base).with_context(|| format!("cannot create {}", base.display()))?;
        Ok(Self { base })
    }

    /// The paths of a lab in this directory.
    #[must_use]
    pub fn at(base: PathBuf) -> Self {
        Self { base }
    }

    /// The directory itself.
    pub fn base(&self) -> &PathBuf {
        &self.base
    }

    /// Debian tree whose `/usr` all machines share; `key` is [`crate::rootfs::key`].
    pub fn rootfs(&self, key: &str) -> PathBuf {
        self.base.join(format!("rootfs-{key}"))
    }

    /// File tree of one machine: everything except `/usr`.
    pub fn machine(&self, name: &str) -> PathBuf {
        self.base.join("machines").join(name)
    }

    /// Our programs, which are bound into the running relays.
    pub fn programs(&self) -> PathBuf {
        self.base.join("programs")
    }

    /// Boot console of one machine.
    pub fn console(&self, name: &str) -> PathBuf {
        self.base.join("machines").join(format!("{name}.console"))
    }

    /// resolv.conf(5) for clients of the running relays.
    pub fn resolv_conf(&self) -> PathBuf {
        self.base.join("resolv.conf")
    }

    /// State of the running lab.
    pub fn state(&self) -> PathBuf {
        self.base.join("state.json")
    }

    /// Output of a program that `cargo lab` runs before the lab.
    pub fn log(&self, name: &str) -> PathBuf {
        self.base.join("log").join(name)
    }

    /// Tools that `cargo lab` compiles for the lab.
    pub fn tools(&self) -> PathBuf {
        self.base.join("tools")
    }

    /// Lock file, locked while a lab starts or stops.
    pub fn lock(&self) -> PathBuf {
        self.base.join("lock")
    }

    /// Certificate of the lab's CA, PEM.
    pub fn ca_certificate(&self) -> PathBuf {
        self.base.join("ca.pem")
    }

    /// Key of the lab's CA, PEM.
    pub fn ca_key(&self) -> PathBuf {
        self.base.join("ca.key")
    }
}
