//! A host as its differences from another host.
//!
//! An overlay is a text similar to a diff, but without line numbers: the surrounding lines identify a place. So an
//! unrelated change to the base does not change the overlay. It begins with the head:
//!
//! ```text
//! base lab-a
//! rename _a.test _b.test
//! ```
//!
//! `rename` replaces a text everywhere in the base, including paths. Then, sorted by path, come `gone PATH`, `new PATH`
//! with the text, and `changed PATH` with hunks. A hunk begins with `@@`. Its lines that begin with a space or `-` are
//! consecutive in the base, at the first match after the previous hunk; its `+` lines replace the `-` lines. The text
//! after the last line feed also counts as a line, usually an empty one.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail, ensure};
use similar::algorithms::{Capture, Replace, myers};
use similar::{DiffOp, DiffTag};

/// Files of a host by path: below `etc`, `store` and `units`, and some lists.
pub(crate) type Files = BTreeMap<PathBuf, String>;

const HUNK: &str = "@@";

/// Returns the differences of `target` from `base`, the files of a host with this name, after these replacements.
pub(super) fn make(
    name: &str,
    base: &Files,
    renames: &[(&str, &str)],
    target: &Files,
) -> anyhow::Result<String> {
    let mut text = format!("base {name}\n");
    for (from, to) in renames {
        let _ = writeln!(text, "rename {from} {to}");
    }
    let renamed = renamed(base, renames)?;
    let mut paths: Vec<_> = renamed.keys().chain(target.keys()).collect();
    paths.sort();
    paths.dedup();
    for path in paths {
        let shown = path.display();
        match (renamed.get(path), target.get(path)) {
            (Some(_), None) => {
                let _ = writeln!(text, "gone {shown}");
            }
            (None, Some(new)) => {
                let _ = writeln!(text, "new {shown}");
                for line in new.split('\n') {
                    let _ = writeln!(text, "+{line}");
                }
            }
            (Some(old), Some(new)) if old != new => {
                let _ = writeln!(text, "changed {shown}");
                hunks(&mut text, &lines(old), &lines(new));
            }
            _ => {}
        }
    }
    Ok(text)
}

/// Applies an overlay to its base, which `load` returns by name.
pub(super) fn apply(
    overlay: &str,
    load: &mut dyn FnMut(&str) -> anyhow::Result<Files>,
) -> anyhow::Result<Files> {
    let mut renames = Vec::new();
    let mut sections = Vec::new();
    let mut base = None;
    for line in overlay.lines() {
        if let Some(content) = line.strip_prefix(['+', '-', ' ', '@']) {
            let (_, section): &mut (_, Vec<(char, &str)>) = sections
                .last_mut()
                .with_context(|| format!("a line outside of a file: {line}"))?;
            section.push((line.chars().next().unwrap_or_default(), content));
        } else if let Some(name) = line.strip_prefix("base ") {
            base = Some(name);
        } else if let Some(pair) = line.strip_prefix("rename ") {
            renames.push(
                pair.split_once(' ')
                    .with_context(|| format!("not two texts: {line}"))?,
            );
        } else {
            let head = line
                .split_once(' ')
                .with_context(|| format!("not a file: {line}"))?;
            sections.push((head, Vec::new()));
        }
    }
    let mut files = renamed(&load(base.context("an overlay without a base")?)?, &renames)?;
    for ((kind, path), lines) in sections {
        let path = PathBuf::from(path);
        let file = || format!("{kind} {}", path.display());
        match kind {
            "gone" => {
                files
                    .remove(&path)
                    .with_context(|| format!("{}: the base has no such file", file()))?;
            }
            "new" => {
                let text: Vec<_> = lines.iter().map(|(_, line)| *line).collect();
                files.insert(path, text.join("\n"));
            }
            "changed" => {
                let old = files
                    .get(&path)
                    .with_context(|| format!("{}: the base has no such file", file()))?;
                let new = change(old, &lines).with_context(file)?;
                files.insert(path, new);
            }
            _ => bail!("not a statement of an overlay: {}", file()),
        }
    }
    Ok(files)
}

/// Replaces these texts in all paths and texts of a host.
fn renamed(files: &Files, renames: &[(&str, &str)]) -> anyhow::Result<Files> {
    let replace = |text: &str| {
        let start = text.to_owned();
        renames
            .iter()
            .fold(start, |text, (from, to)| text.replace(from, to))
    };
    let mut renamed = BTreeMap::new();
    for (path, text) in files {
        let path = path.to_str().context("a path is not UTF-8")?;
        let path = PathBuf::from(replace(path));
        ensure!(
            renamed.insert(path.clone(), replace(text)).is_none(),
            "two files have the path {} after the renaming",
            path.display()
        );
    }
    Ok(renamed)
}

fn lines(text: &str) -> Vec<&str> {
    text.split('\n').collect()
}

/// Writes the hunks that turn `old` into `new`, each with the fewest preceding lines that identify its place.
fn hunks(text: &mut String, old: &[&str], new: &[&str]) {
    let mut start = 0;
    for op in operations(old, new) {
        let (tag, before, after) = op.as_tag_tuple();
        if tag == DiffTag::Equal {
            continue;
        }
        // An insertion includes the line before it, if there is one.
        let least = usize::from(before.is_empty());
        let mut context = least.min(before.start - start);
        let rest = old.get(start..).unwrap_or_default();
        let begins = |context: usize| before.start - context;
        while context < before.start - start
            && find(rest, old.get(begins(context)..before.end).unwrap_or_default())
                != Some(begins(context) - start)
        {
            context += 1;
        }
        let _ = writeln!(text, "{HUNK}");
        for (sign, lines) in [
            (' ', old.get(begins(context)..before.start)),
            ('-', old.get(before.clone())),
            ('+', new.get(after)),
        ] {
            for line in lines.unwrap_or_default() {
                let _ = writeln!(text, "{sign}{line}");
            }
        }
        start = before.end;
    }
}

/// Returns the operations that turn `old` into `new`. `similar::capture_diff` also reorders operations, after which
/// some positions are wrong.
fn operations(old: &[&str], new: &[&str]) -> Vec<DiffOp> {
    let mut hook = Replace::new(Capture::new());
    let Ok(()) = myers::diff(&mut hook, old, 0..old.len(), new, 0..new.len());
    hook.into_inner().into_ops()
}

/// Returns the first position of these lines.
fn find(lines: &[&str], wanted: &[&str]) -> Option<usize> {
    if wanted.is_empty() {
        return Some(0);
    }
    lines.windows(wanted.len()).position(|window| window == wanted)
}

/// Applies the hunks of one file.
fn change(old: &str, hunks: &[(char, &str)]) -> anyhow::Result<String> {
    let old = lines(old);
    let mut rest = old.as_slice();
    let mut new = Vec::new();
    for hunk in hunks.split(|(sign, _)| *sign == '@').skip(1) {
        let of = |sign: char| {
            hunk.iter()
                .filter(move |(found, _)| *found == sign)
                .map(|(_, line)| *line)
        };
        let kept: Vec<_> = of(' ').collect();
        let wanted: Vec<_> = kept.iter().copied().chain(of('-')).collect();
        let at = find(rest, &wanted)
            .with_context(|| format!("the base no longer contains these lines: {}", wanted.join("\n")))?;
        new.extend(rest.iter().take(at).copied());
        new.extend(kept);
        new.extend(of('+'));
        rest = rest.get(at + wanted.len()..).unwrap_or_default();
    }
    new.extend(rest.iter().copied());
    Ok(new.join("\n"))
}

/// Returns the host on which an overlay is based.
pub(super) fn base(overlay: &str) -> Option<&str> {
    overlay.lines().find_map(|line| line.strip_prefix("base "))
}

/// Whether a file is an overlay: `HOST.diff`.
pub(super) fn host(path: &Path) -> Option<&str> {
    path.to_str()?.strip_suffix(".diff")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(files: &[(&str, &str)]) -> Files {
        files
            .iter()
            .map(|(path, text)| (PathBuf::from(path), (*text).to_owned()))
            .collect()
    }

    fn there_and_back(base: &Files, renames: &[(&str, &str)], target: &Files) -> String {
        let overlay = make("base", base, renames, target).unwrap();
        let back = apply(&overlay, &mut |name| {
            assert_eq!(name, "base");
            Ok(base.clone())
        });
        assert_eq!(&back.unwrap(), target, "{overlay}");
        overlay
    }

    #[test]
    fn a_host_comes_back_from_its_overlay() {
        let base = files(&[
            ("store/a.test.conf", "name a.test\nsize 1\nlast 1\n"),
            ("store/gone", "x\n"),
            ("units/same", "a\nb"),
        ]);
        let target = files(&[
            ("store/b.test.conf", "name b.test\nsize 2\nlast 1\n"),
            ("store/new", "+y\n\n-z"),
            ("units/same", "a\nb"),
        ]);
        insta::assert_snapshot!(there_and_back(&base, &[("a.test", "b.test")], &target));
    }

    #[test]
    fn places_are_told_apart_that_read_alike() {
        let base = "{\na\n}\n{\na\n}\n{\na\n}\n";
        for target in [
            "{\na\n}\n{\nb\n}\n{\na\n}\n",
            "{\na\n}\n{\na\n}\n{\na\nb\n}\n",
            "b\n{\na\n}\n{\na\n}\n{\na\n}\n",
            "{\n}\n{\na\n}\n{\n}\n",
            "{\na\n}\n{\na\n}\n{\na\n}",
            "",
            "\n\n",
        ] {
            there_and_back(&files(&[("f", base)]), &[], &files(&[("f", target)]));
            there_and_back(&files(&[("f", target)]), &[], &files(&[("f", base)]));
        }
    }

    proptest::proptest! {
        #[test]
        fn every_text_comes_back(base in "[ab}\n]{0,60}", target in "[ab}\n]{0,60}") {
            there_and_back(&files(&[("f", &base)]), &[], &files(&[("f", &target)]));
        }
    }

    #[test]
    fn an_overlay_stays_as_it_is_when_its_base_changes_elsewhere() {
        let overlay = there_and_back(
            &files(&[("f", "one\ntwo\nthree\nfour\n"), ("g", "1\n")]),
            &[],
            &files(&[("f", "one\ntwo\nTHREE\nfour\n"), ("g", "1\n")]),
        );
        let changed = files(&[("f", "zero\none\n2\nthree\nfour\nfive\n"), ("g", "2\n")]);
        let applied = apply(&overlay, &mut |_| Ok(changed.clone())).unwrap();
        assert_eq!(
            applied,
            files(&[("f", "zero\none\n2\nTHREE\nfour\nfive\n"), ("g", "2\n")])
        );
    }

    #[test]
    fn what_does_not_fit_its_base_is_an_error() {
        let base = files(&[("f", "one\n")]);
        for (overlay, message) in [
            ("base base\nchanged f\n@@\n-two\n+three\n", "no longer contains"),
            ("base base\nchanged g\n@@\n-two\n", "no such file"),
            ("base base\ngone g\n", "no such file"),
            ("base base\nother f\n", "not a statement"),
            ("+x\n", "outside of a file"),
            ("new f\n+x\n", "without a base"),
        ] {
            let error = apply(overlay, &mut |_| Ok(base.clone())).unwrap_err();
            assert!(format!("{error:#}").contains(message), "{error:#}");
        }
    }
}
