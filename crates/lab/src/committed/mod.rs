//! The rendering as it is committed below `tests/rendered`: one host in whole files, the others by what they differ in.

#[cfg(test)]
mod expectations;
mod overlay;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, ensure};

pub(crate) use self::overlay::Files;
use crate::project;

/// Where the rendering is committed.
pub(crate) const FOLDER: &str = "tests/rendered";
/// The host that is there in whole files.
const WHOLE: &str = "minimal";
/// A host with nearly all that the module has.
const FULL: &str = "full";
/// The host that the others of the lab are compared with.
const LAB: &str = "lab-a";
/// What is linked to below /etc: lines `PATH ENTRY`, by the name in the store.
const ETC: &str = "etc";

/// A host as it was rendered.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Host {
    /// Its mail domain, which stands in most files.
    pub(crate) domain: String,
    pub(crate) files: Files,
}

/// What a host is compared with; none for the one that is whole.
fn base(host: &str) -> Option<&'static str> {
    match host {
        WHOLE => None,
        LAB => Some(FULL),
        lab if lab.starts_with("lab-") => Some(LAB),
        _ => Some(WHOLE),
    }
}

/// The files that these hosts are committed as, by their path below [`FOLDER`].
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
        ensure!(back == host.files, "{name} does not come back from its overlay");
        stored.insert(format!("{name}.diff").into(), text);
    }
    Ok(stored)
}

/// Names of the hosts that are committed.
pub(crate) fn hosts() -> anyhow::Result<Vec<String>> {
    let mut hosts = vec![WHOLE.to_owned()];
    for path in project::files_below(&folder())? {
        hosts.extend(overlay::host(&path).map(str::to_owned));
    }
    hosts.sort();
    Ok(hosts)
}

/// All files of a committed host, those below `/etc` among them.
pub(crate) fn load(host: &str) -> anyhow::Result<Files> {
    let mut files = assembled(host)?;
    let links = files.remove(Path::new(ETC)).unwrap_or_default();
    for line in links.lines() {
        let (path, entry) = line
            .split_once(' ')
            .with_context(|| format!("{host}: etc: {line}"))?;
        let text = files
            .get(&Path::new("store").join(entry))
            .with_context(|| format!("{host}: /etc/{path} links to {entry}, which is not there"))?;
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
    // A base that is not the one that this program takes could go round in circles.
    ensure!(overlay::base(&text) == base(host), "{host} has another base");
    overlay::apply(&text, &mut |base| assembled(base)).with_context(|| format!("{}", path.display()))
}

fn folder() -> PathBuf {
    project::root().join(FOLDER)
}

/// All files below a folder, by their path in it; none when there is no such folder.
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

    /// What stands in one place only differs in one place only.
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
