//! Parses the dialect of INI that the reference reads with Python's `iniconfig`: comments are whole lines or follow the
//! name of a section, and indented lines continue the previous value.

use std::collections::BTreeSet;

use anyhow::{bail, ensure};

/// The only section of a `chatmail.ini`.
const SECTION: &str = "params";

/// One setting.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    /// Number of its first line, beginning with 1.
    pub(super) line: usize,
}

/// Parses the settings, in their order.
///
/// # Errors
///
/// If a line is not a section, a setting or a continuation, if there is a section other than `[params]`, or if a setting
/// or the section occurs twice.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<Setting>> {
    let mut settings: Vec<Setting> = Vec::new();
    let mut seen = BTreeSet::new();
    let mut inside = false;
    // Some editors begin a file with a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines()) {
        let trimmed = line.trim();
        if trimmed.is_empty() || trimmed.starts_with(['#', ';']) {
            continue;
        }
        if line.starts_with([' ', '\t']) {
            let Some(last) = settings.last_mut() else {
                bail!("line {number} is indented, but no setting precedes it");
            };
            last.value.push('\n');
            last.value.push_str(trimmed);
            continue;
        }
        if let Some(section) = section(trimmed) {
            ensure!(
                section == SECTION,
                "line {number} begins the unknown section `[{section}]`; the only section is `[{SECTION}]`"
            );
            ensure!(
                !std::mem::replace(&mut inside, true),
                "line {number} begins the section `[{SECTION}]` a second time"
            );
            continue;
        }
        ensure!(inside, "line {number} is outside of the section `[{SECTION}]`");
        let Some((key, value)) = trimmed.split_once(['=', ':']) else {
            bail!("line {number} is not a setting: expected `name = value`");
        };
        let key = key.trim().to_owned();
        ensure!(
            seen.insert(key.clone()),
            "line {number} sets `{key}` a second time"
        );
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

/// The name of the section that this line begins.
fn section(line: &str) -> Option<&str> {
    let rest = line.strip_prefix('[')?;
    let name = rest.split(['#', ';']).next().unwrap_or(rest);
    name.trim_end().strip_suffix(']')
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The settings as `name=value`.
    fn parsed(text: &str) -> Vec<String> {
        let settings = parse(text).unwrap();
        settings
            .iter()
            .map(|setting| format!("{}={}", setting.key, setting.value))
            .collect()
    }

    #[test]
    fn files_of_other_editors_are_read_like_the_reference_reads_them() {
        let text = "\u{feff}[params] # of the relay\r\nmail_domain = chat.example.org\r\nprivacy_postal: One = 1\r\n  Two: 2 # 3\r\n\r\nx =\r\n";
        assert_eq!(
            parsed(text),
            [
                "mail_domain=chat.example.org",
                "privacy_postal=One = 1\nTwo: 2 # 3",
                "x="
            ]
        );
        assert!(parse("[params\nmail_domain = chat.example.org\n").is_err());
        // It knows no variables.
        assert_eq!(parsed("[params]\nx = 5%% of %(y)s $z\n"), ["x=5%% of %(y)s $z"]);
        for twice in ["[params]\nx = 1\n[params]\n", "[params]\nx = 1\nx: 2\n"] {
            let error = parse(twice).unwrap_err();
            assert!(error.to_string().contains("a second time"), "{error}");
        }
        let other = parse("[other] ; [params]\n").unwrap_err();
        assert!(other.to_string().contains("`[other]`"), "{other}");
    }
}
