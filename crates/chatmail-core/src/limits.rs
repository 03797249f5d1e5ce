//! The limits of the machine on new accounts.

use std::fmt;
use std::path::Path;

use crate::settings::Accounts;

/// The free resources of the machine. A value that cannot be read is none, and limits nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Resources {
    /// Load average of one minute.
    pub load_1m: Option<f64>,
    /// Available memory in bytes.
    pub memory_available: Option<u64>,
    /// Bytes that an unprivileged user can still write to the mail store.
    pub disk_free: Option<u64>,
}

/// An exceeded limit. The text is a log line.
#[derive(Debug, Clone, PartialEq)]
pub enum Exhausted {
    /// Load average, and the allowed maximum.
    Load(f64, f64),
    /// Available memory in bytes, and the required minimum.
    Memory(u64, u64),
    /// Free disk space in bytes, and the required minimum.
    Disk(u64, u64),
}

const MEBIBYTE: u64 = 1 << 20;

impl fmt::Display for Exhausted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("registration rejected: ")?;
        match self {
            Self::Load(load, max) => write!(f, "load avg {load:.2} > {max}"),
            Self::Memory(free, min) => {
                write!(f, "available memory {}MB < {}MB", free / MEBIBYTE, min / MEBIBYTE)
            }
            Self::Disk(free, min) => write!(f, "free disk {}MB < {}MB", free / MEBIBYTE, min / MEBIBYTE),
        }
    }
}

impl Resources {
    /// Reads load and memory from `/proc`, and the free space of the file system of `store`.
    pub fn read(store: &Path) -> Self {
        Self {
            load_1m: std::fs::read_to_string("/proc/loadavg")
                .ok()
                .and_then(|text| parse_loadavg(&text)),
            memory_available: std::fs::read_to_string("/proc/meminfo")
                .ok()
                .and_then(|text| parse_meminfo(&text)),
            disk_free: nix::sys::statvfs::statvfs(store)
                .ok()
                .map(|fs| fs.blocks_available().saturating_mul(fs.fragment_size())),
        }
    }

    /// The first exceeded limit, if any.
    pub fn exhausted(&self, rules: &Accounts) -> Option<Exhausted> {
        if let Some(load) = self.load_1m.filter(|load| *load > rules.max_load_1m) {
            return Some(Exhausted::Load(load, rules.max_load_1m));
        }
        if let Some(free) = self
            .memory_available
            .filter(|free| *free < rules.min_memory_available)
        {
            return Some(Exhausted::Memory(free, rules.min_memory_available));
        }
        if let Some(free) = self.disk_free.filter(|free| *free < rules.min_disk_free) {
            return Some(Exhausted::Disk(free, rules.min_disk_free));
        }
        None
    }
}

fn parse_loadavg(text: &str) -> Option<f64> {
    text.split_whitespace().next()?.parse().ok()
}

fn parse_meminfo(text: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kibibytes: u64 = line.trim().strip_suffix("kB")?.trim().parse().ok()?;
    kibibytes.checked_mul(1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Accounts {
        let text = include_str!("../testdata/settings.json");
        crate::Settings::parse(text, Path::new("sample"))
            .unwrap()
            .accounts
    }

    #[test]
    fn each_limit_is_named() {
        let fine = Resources {
            load_1m: Some(5.0),
            memory_available: Some(200 << 20),
            disk_free: Some(1 << 30),
        };
        assert_eq!(fine.exhausted(&rules()), None);
        assert_eq!(Resources::default().exhausted(&rules()), None);
        let line = |resources: Resources| resources.exhausted(&rules()).unwrap().to_string();
        assert_eq!(
            line(Resources {
                load_1m: Some(5.25),
                ..fine
            }),
            "registration rejected: load avg 5.25 > 5"
        );
        assert_eq!(
            line(Resources {
                memory_available: Some(100 << 20),
                ..fine
            }),
            "registration rejected: available memory 100MB < 200MB"
        );
        assert_eq!(
            line(Resources {
                disk_free: Some(0),
                ..fine
            }),
            "registration rejected: free disk 0MB < 1024MB"
        );
    }

    #[test]
    fn proc_files_are_read() {
        assert_eq!(parse_loadavg("0.52 0.58 0.59 1/389 12345\n"), Some(0.52));
        assert_eq!(
            parse_meminfo("MemTotal: 1 kB\nMemAvailable:   2048 kB\n"),
            Some(2 << 20)
        );
        assert_eq!(parse_meminfo("MemTotal: 1 kB\n"), None);
        assert_eq!(parse_loadavg(""), None);
        let here = Resources::read(Path::new("/"));
        assert!(here.load_1m.is_some() && here.memory_available.is_some() && here.disk_free.is_some());
    }
}
