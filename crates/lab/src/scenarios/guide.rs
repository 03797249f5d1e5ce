//! The commands of the operator guide, run unchanged.

use anyhow::{Context as _, ensure};

use super::Context;
use crate::project;

const GUIDE: &str = "docs/operator-guide.md";
/// Name of the relay in the guide.
const DOMAIN: &str = "chat.example.org";

/// Returns the shell blocks below a heading, in order.
pub(super) fn blocks(heading: &str) -> anyhow::Result<Vec<String>> {
    let path = project::root().join(GUIDE);
    let text = std::fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let found = shell_blocks(&text, heading);
    ensure!(!found.is_empty(), "{GUIDE} has no shell block below `{heading}`");
    Ok(found)
}

fn shell_blocks(text: &str, heading: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let (mut here, mut open) = (false, false);
    for line in text.lines() {
        match line.trim() {
            "```sh" if here => {
                open = true;
                blocks.push(String::new());
            }
            "```" => open = false,
            _ if !open && line.starts_with('#') => here = line.trim_start_matches('#').trim() == heading,
            _ => {
                if let Some(block) = blocks.last_mut().filter(|_| open) {
                    block.push_str(line);
                    block.push('\n');
                }
            }
        }
    }
    blocks
}

/// Runs a block on a relay. `root` replaces `/` where the block changes to that directory.
pub(super) async fn run(context: &Context, relay: &str, block: &str, root: &str) -> anyhow::Result<()> {
    let domain = context.peer(relay)?.domain;
    let script = block
        .replace(DOMAIN, &domain)
        .replace("cd /\n", &format!("cd {root}\n"));
    context
        .run(relay, &["bash", "-euc", &script])
        .await
        .map(drop)
        .with_context(|| format!("a command of {GUIDE}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_belong_to_the_heading_above_them() {
        let text = "## A\n```sh\none\n# two\n```\n    three\n## B\n1. x\n   ```sh\n   four\n   ```\n```\nfive\n```\n";
        assert_eq!(shell_blocks(text, "A"), ["one\n# two\n"]);
        assert_eq!(shell_blocks(text, "B"), ["   four\n"]);
        assert!(shell_blocks(text, "C").is_empty());
    }

    /// First paths in the rows of the table, and whether backups contain them.
    fn state_in_guide(text: &str) -> Vec<String> {
        let (_, section) = text.split_once("\n## State\n").unwrap();
        let (section, _) = section.split_once("\n## ").unwrap();
        let mut paths = Vec::new();
        for row in section.lines().filter(|line| line.starts_with("| ")).skip(1) {
            let places = row.split(" | ").nth(1).unwrap();
            let quoted = places.split('`').skip(1).step_by(2);
            paths.extend(quoted.filter(|path| path.starts_with('/')).map(str::to_owned));
        }
        paths
    }

    /// The module, the backup and `chatmail restore` use one list, which the settings contain.
    #[test]
    fn the_guide_lists_the_whole_state() {
        use std::collections::BTreeSet;

        let mut rendered = BTreeSet::new();
        for host in crate::committed::hosts().unwrap() {
            let files = crate::committed::load(&host).unwrap();
            let text = &files[std::path::Path::new("store/chatmail-settings.json")];
            let settings: serde_json::Value = serde_json::from_str(text).unwrap();
            let mailboxes = settings["mailboxes"]["directory"].as_str().unwrap();
            for entry in settings["state"].as_array().unwrap() {
                let path = entry["path"].as_str().unwrap();
                let guide = "/home/vmail/mail/chat.example.org";
                rendered.insert(if path == mailboxes { guide } else { path }.to_owned());
                // Only the queue is not saved.
                assert_eq!(
                    entry["backup"],
                    path != "/var/lib/postfix/queue",
                    "{host}: {path}"
                );
            }
        }
        let text = std::fs::read_to_string(project::root().join(GUIDE)).unwrap();
        let listed = state_in_guide(&text);
        assert_eq!(listed.iter().cloned().collect::<BTreeSet<_>>(), rendered);
        assert_eq!(listed.len(), rendered.len(), "a row is there twice");
    }

    #[test]
    fn the_guide_says_how_to_save_restore_and_move() {
        for (heading, count) in [
            ("Backup", 1),
            ("Restore", 1),
            ("Moving from the reference relay", 2),
        ] {
            assert_eq!(blocks(heading).unwrap().len(), count, "{heading}");
        }
    }
}
