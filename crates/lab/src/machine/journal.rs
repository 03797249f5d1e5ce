//! Reads the journal of a machine.

use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context as _, bail};
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::container;
use super::state::Leader;

/// A position in the journal of one machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Cursor(String);

/// The current end of the journal.
pub(super) async fn cursor(leader: Leader) -> anyhow::Result<Cursor> {
    let text = container::capture(leader, &["journalctl", "--quiet", "--lines=0", "--show-cursor"]).await?;
    let cursor = text.lines().find_map(|line| line.strip_prefix("-- cursor: "));
    Ok(Cursor(cursor.context("journalctl printed no cursor")?.to_owned()))
}

/// Messages after a position, from one unit or all.
pub(super) async fn since(leader: Leader, unit: Option<&str>, since: &Cursor) -> anyhow::Result<Vec<String>> {
    // Waits until journald has stored what services logged before this call.
    container::capture(leader, &["journalctl", "--sync"]).await?;
    let arguments = arguments(unit, since);
    let argv: Vec<&str> = arguments.iter().map(String::as_str).collect();
    Ok(container::capture(leader, &argv)
        .await?
        .lines()
        .map(str::to_owned)
        .collect())
}

/// Waits for the first message after a position that contains `want`.
pub(super) async fn follow(
    leader: Leader,
    unit: Option<&str>,
    since: &Cursor,
    want: &str,
    deadline: Duration,
) -> anyhow::Result<String> {
    let mut arguments = arguments(unit, since);
    arguments.extend(["--follow".to_owned(), "--no-tail".to_owned()]);
    let argv: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut reader = container::command(leader, &argv)
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()?;
    let output = reader.stdout.take().context("journalctl has no output")?;
    let mut lines = BufReader::new(output).lines();
    let search = async {
        while let Some(line) = lines.next_line().await? {
            if line.contains(want) {
                return Ok(line);
            }
        }
        bail!("the journal ended before a message with `{want}`")
    };
    match tokio::time::timeout(deadline, search).await {
        Ok(found) => found,
        Err(_) => bail!("no message with `{want}` within {} ms", deadline.as_millis()),
    }
}

fn arguments(unit: Option<&str>, since: &Cursor) -> Vec<String> {
    let mut arguments = vec![
        "journalctl".to_owned(),
        "--quiet".to_owned(),
        "--output=cat".to_owned(),
    ];
    arguments.push(format!("--after-cursor={}", since.0));
    arguments.extend(unit.map(|unit| format!("--unit={unit}")));
    arguments
}
