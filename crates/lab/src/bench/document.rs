//! Writes docs/performance.md, the results of the benchmarks.

use std::fs;

use anyhow::Context as _;

use crate::project;

const FILE: &str = "docs/performance.md";

/// Replaces the results in the section of a benchmark.
pub(super) fn write(title: &str, text: &str) -> anyhow::Result<()> {
    let path = project::root().join(FILE);
    let document = fs::read_to_string(&path).with_context(|| format!("cannot read {FILE}"))?;
    let section = format!("Measured on {}.\n\n```text\n{}\n```\n", machine()?, text.trim());
    let partial = path.with_extension("md.partial");
    fs::write(&partial, with_section(&document, title, &section))?;
    fs::rename(&partial, &path).with_context(|| format!("cannot write {FILE}"))
}

/// Replaces the section with this title, or appends it to the document.
fn with_section(document: &str, title: &str, section: &str) -> String {
    let heading = format!("## {title}\n");
    let (before, rest) = document.split_once(&heading).unwrap_or((document, ""));
    let after = rest
        .find("\n## ")
        .and_then(|end| rest.get(end..))
        .unwrap_or_default();
    format!("{}\n\n{heading}\n{section}{after}", before.trim_end())
}

/// Processors, memory and kernel of this machine.
fn machine() -> anyhow::Result<String> {
    let read = |path: &str| fs::read_to_string(path).with_context(|| format!("cannot read {path}"));
    let (processors, memory) = (read("/proc/cpuinfo")?, read("/proc/meminfo")?);
    let values = |text: &str, name: &str| -> Vec<String> {
        text.lines()
            .filter_map(|line| Some(line.strip_prefix(name)?.split_once(':')?.1.trim().to_owned()))
            .collect()
    };
    let models = values(&processors, "model name");
    let kibibytes: u64 = values(&memory, "MemTotal")
        .first()
        .and_then(|total| total.strip_suffix(" kB")?.parse().ok())
        .context("/proc/meminfo has no MemTotal")?;
    Ok(format!(
        "{} processors ({}), {} GiB memory, Linux {}",
        values(&processors, "processor").len(),
        models.first().map_or("unknown model", String::as_str),
        kibibytes.div_ceil(1024 * 1024),
        read("/proc/sys/kernel/osrelease")?.trim()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_section_is_replaced_in_its_place() {
        let document = "# Title\n\nText.\n\n## One\n\nold\n\n## Two\n\ntwo\n";
        assert_eq!(
            with_section(document, "One", "new\n"),
            "# Title\n\nText.\n\n## One\n\nnew\n\n## Two\n\ntwo\n"
        );
        assert_eq!(
            with_section(document, "Two", "new\n"),
            "# Title\n\nText.\n\n## One\n\nold\n\n## Two\n\nnew\n"
        );
    }

    #[test]
    fn a_new_section_comes_last() {
        assert_eq!(
            with_section("# Title\n", "One", "new\n"),
            "# Title\n\n## One\n\nnew\n"
        );
    }

    #[test]
    fn this_machine_is_described() {
        assert!(machine().unwrap().contains(" processors ("));
    }
}
