//! `chatmail migrate` on a relay, with the settings of a reference relay.

use std::fs;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::project;

const RELAY: &str = "a";
/// Documentation of all options, generated from the module.
const OPTIONS: &str = "docs/options.md";
/// Settings that map to every migratable option except `imap.rawlog`.
const INI: &str = "crates/chatmail/testdata/chatmail.ini";

pub(super) async fn options(context: &Context) -> anyhow::Result<()> {
    let machines = context.machines();
    let file = "var/lib/lab-chatmail.ini";
    let path = project::root().join(INI);
    let ini = fs::read_to_string(&path).with_context(|| path.display().to_string())? + "imap_rawlog = true\n";
    fs::write(machines.root(RELAY).join(file), &ini)?;
    let command = ["chatmail", "migrate", &format!("/{file}")];
    let module = context.run(RELAY, &command).await?;
    let path = project::root().join(OPTIONS);
    let known = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut names = 0;
    for line in module.lines().filter_map(|line| line.strip_prefix("  services.")) {
        let (name, _) = line.split_once(" =").context("an option has no value")?;
        ensure!(
            known.contains(&format!("\n## services.{name}\n")),
            "there is no option services.{name}"
        );
        names += 1;
    }
    ensure!(
        names >= ini.lines().count() - 2,
        "only {names} options in:\n{module}"
    );

    fs::write(
        machines.root(RELAY).join(file),
        "[params]\nmail_domain = chat.example.org\nmax_message_size = 30M\n",
    )?;
    let wrong = machines.exec(RELAY, &command).await?;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    ensure!(
        !wrong.status.success()
            && said.contains("line 3: `max_message_size`: expected an integer, found `30M`"),
        "chatmail migrate: {said}"
    );
    Ok(())
}
