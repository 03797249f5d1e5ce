//! The dialect of INI that the reference reads with Python's `iniconfig`: comments take whole lines, and indented lines
//! continue the value above.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};

/// The only section of a `chatmail.ini`.
const SECTION: &str = "params";

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    /// Number of its first line, from 1.
    pub(super) line: usize,
}

/// The settings in their order.
///
/// # Errors
///
/// A line that is neither a section, a setting nor a continuation; another section than `[params]`; a setting that occurs
/// twice.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Setting>> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut inside = false;
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let Some(last) = settings.last_mut() else {
                bail!("line {number} is indented but continues no setting");
            };
            last.value.push('\n');
            last.value.push_str(trimmed);
            continue;
        }
        if let Some(section) = trimmed.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
            ensure!(
                section == SECTION,
                "line {number} begins the section `{section}`; only `{SECTION}` is known"
            );
            inside = true;
            continue;
        }
        ensure!(inside, "line {number} comes before the section `[{SECTION}]`");
        let Some((key, value)) = trimmed.split_once('=').or_else(|| trimmed.split_once(':')) else {
            bail!("line {number} is no setting: expected `name = value`");
        };
        let key = key.trim().to_owned();
        ensure!(seen.insert(key.clone()), "line {number} sets `{key}` again");
        settings.push(Setting {
            key,
            value: value.trim().to_owned(),
            line: number,
        });
    }
    for setting in &mut settings {
        setting.value = setting.value.trim().to_owned();
    }
    Ok(settings)
}
