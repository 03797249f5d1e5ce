//! The rendering as committed below `tests/rendered`: one host in complete files, the others as differences.

#[cfg(test)]
mod expectations;
mod overlay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

pub(crate) use self::overlay::Files;
use crate::project;

/// Folder of the committed rendering.
pub(crate) const FOLDER: &str = "tests/rendered";
/// The host with complete files.
const WHOLE: &str = "minimal";
/// A host that uses nearly all features of the module.
const FULL: &str = "full";
/// The base of the other hosts of the lab.
const LAB: &str = "lab-a";
/// List of the links below /etc: lines `PATH ENTRY`, with the name of the entry in the store.
const ETC: &str = "etc";

/// A rendered host.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Its mail domain, which occurs in most files.
    pub(crate) domain: String,
    pub(crate) files: Files,
}

/// Returns the base of a host; none for the host with complete files.
fn base(host: &str) -> Option<&'static str> {
    match host {
        WHOLE => None,
        LAB => Some(FULL),
        lab if lab.starts_with("lab-") => Some(LAB),
        _ => Some(WHOLE),
    }
}

/// Returns the files to commit for these hosts, by their path below [`FOLDER`].
pub(crate) fn stored(hosts: &BTreeMap<String, Host>) -> anyhow::Result<Files> {
    let mut stored = Files::new();
    for (name, host) in hosts {
        let Some(base) = base(name) else {
            let below = |(path, text): (&PathBuf, &String)| (Path::new(name).join(path), text.clone());
            stored.extend(host.files.iter().map(below));
            continue;
        };
        let other = hosts.get(base).with_context(|| format!("{name} needs {base}"))?;
        let mut renames = Vec::new();
        if other.domain != host.domain {
            renames.push((other.domain.as_str(), host.domain.as_str()));
        }
        let text = overlay::make(base, &other.files, &renames, &host.files)?;
        let back = overlay::apply(&text, &mut |_| Ok(other.files.clone()))?;
        ensure!(
            back == host.files,
            "the overlay of {name} does not restore the host"
        );
        stored.insert(format!("{name}.diff").into(), text);
    }
    Ok(stored)
}

/// Returns the names of the committed hosts.
pub(crate) fn hosts() -> anyhow::Result<Vec<String>> {
    let mut hosts = vec![WHOLE.to_owned()];
    for path in project::files_below(&folder())? {
        hosts.extend(overlay::host(&path).map(str::to_owned));
    }
    hosts.sort();
    Ok(hosts)
}

/// Returns all files of a committed host, including those below `/etc`.
pub(crate) fn load(host: &str) -> anyhow::Result<Files> {
    let mut files = assembled(host)?;
    let links = files.remove(Path::new(ETC)).unwrap_or_default();
    for line in links.lines() {
        let (path, entry) = line
            .split_once(' ')
            .with_context(|| format!("{host}: etc: {line}"))?;
        let text = files
            .get(&Path::new("store").join(entry))
            .with_context(|| format!("{host}: /etc/{path} links to {entry}, which does not exist"))?;
        files.insert(Path::new(ETC).join(path), text.clone());
    }
    Ok(files)
}

fn assembled(host: &str) -> anyhow::Result<Files> {
    if base(host).is_none() {
        return read(&folder().join(host));
    }
    let path = folder().join(format!("{host}.diff"));
    let text = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {}; `cargo lab render` writes it", path.display()))?;
    // Other bases than those of this program could form a cycle.
    ensure!(overlay::base(&text) == base(host), "{host} has another base");
    overlay::apply(&text, &mut |base| assembled(base)).with_context(|| format!("{}", path.display()))
}

fn folder() -> PathBuf {
    project::root().join(FOLDER)
}

/// Returns all files below a folder, by their path in it; none if the folder does not exist.
pub(crate) fn read(folder: &Path) -> anyhow::Result<Files> {
    let mut files = Files::new();
    for path in project::files_below(folder)? {
        let text = std::fs::read_to_string(folder.join(&path))
            .with_context(|| format!("cannot read {}", folder.join(&path).display()))?;
        files.insert(path, text);
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_committed_host_is_whole() {
        let hosts = hosts().unwrap();
        for some in ["existing-site", "full", "lab-a", "lab-e", WHOLE] {
            assert!(hosts.iter().any(|host| host == some), "{some} is missing");
        }
        for host in hosts {
            let files = load(&host).unwrap();
            for file in ["etc/chatmail/settings.json", "store/dovecot.conf", "wants"] {
                assert!(files.contains_key(Path::new(file)), "{host} has no {file}");
            }
        }
    }

    /// A change to a shared part of the rendering changes only one committed file.
    #[test]
    fn a_change_that_all_hosts_have_is_stored_once() {
        let host = |domain: &str, size: u8| Host {
            domain: domain.to_owned(),
            files: Files::from([(
                PathBuf::from("store/main.cf"),
                format!("name = {domain}\nsize = {size}\nlast = 1\n"),
            )]),
        };
        let hosts = |size| {
            let named = [
                (WHOLE, "chat.example.org"),
                (FULL, "chat.example.org"),
                (LAB, "_a.test"),
                ("lab-b", "_b.test"),
            ];
            named
                .map(|(name, domain)| (name.to_owned(), host(domain, size)))
                .into()
        };
        let (before, after) = (stored(&hosts(1)).unwrap(), stored(&hosts(2)).unwrap());
        let changed: Vec<_> = before
            .keys()
            .filter(|path| before.get(*path) != after.get(*path))
            .collect();
        assert_eq!(changed, [Path::new("minimal/store/main.cf")]);
    }
}
