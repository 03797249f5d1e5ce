//! What the NixOS module has rendered is accepted by the daemons that it is for.

use anyhow::{Context as _, bail, ensure};

use super::Context;
use crate::project;

const RELAYS: [&str; 3] = ["a", "b", "c"];
/// Units of NixOS's that are rendered with ours.
const FOREIGN: [&str; 4] = ["dovecot", "nginx", "postfix", "unbound"];
/// The exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE: &str = "--threshold=20";

/// Names of the rendered units of a relay that end with `suffix`.
fn units(relay: &str, suffix: &str) -> anyhow::Result<Vec<String>> {
    let directory = project::root().join(format!("tests/rendered/lab-{relay}/units"));
    let entries = directory
        .read_dir()
        .with_context(|| format!("reading {}", directory.display()))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(suffix) {
            names.push(name);
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "no {suffix} in {}", directory.display());
    Ok(names)
}

fn is_ours(unit: &str) -> bool {
    !FOREIGN
        .iter()
        .any(|foreign| unit.split(['.', '-', '@']).next() == Some(foreign))
}

/// The program that a unit starts, and the argument after `option` on its command line.
async fn command(
    context: &Context,
    relay: &str,
    unit: &str,
    option: &str,
) -> anyhow::Result<(String, String)> {
    let text = context.run(relay, &["systemctl", "cat", unit]).await?;
    let commands = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    for command in commands {
        let mut words = command
            .split_whitespace()
            .map(|word| word.trim_matches(['\'', '"']));
        let program = words.next();
        let mut rest = words.skip_while(|word| *word != option);
        if let (Some(program), Some(_), Some(value)) = (program, rest.next(), rest.next()) {
            return Ok((program.to_owned(), value.to_owned()));
        }
    }
    bail!("{unit} of relay {relay} starts nothing with {option}")
}

pub(super) async fn accepted(context: &Context) -> anyhow::Result<()> {
    for relay in RELAYS {
        let (nginx, nginx_conf) = command(context, relay, "nginx.service", "-c").await?;
        let (opendkim, opendkim_conf) = command(context, relay, "opendkim.service", "-x").await?;
        let (_, unbound_conf) = command(context, relay, "unbound.service", "-c").await?;
        // Postfix and Dovecot read their files in /etc, also when systemd starts them.
        let checks: [&[&str]; 5] = [
            &["postfix", "check"],
            &["doveconf", "-n"],
            &[&nginx, "-t", "-c", &nginx_conf],
            &[&opendkim, "-n", "-x", &opendkim_conf],
            &["unbound-checkconf", &unbound_conf],
        ];
        for check in checks {
            context.run(relay, check).await?;
        }
        // Postfix takes names that it does not know for a user's own, and says so here only.
        let output = context.machines()?.exec(relay, &["postconf", "-n"]).await?;
        let warnings = String::from_utf8_lossy(&output.stderr).into_owned();
        ensure!(
            output.status.success() && warnings.is_empty(),
            "postconf on relay {relay}: {warnings}"
        );

        let ours: Vec<String> = [".service", ".socket"]
            .iter()
            .map(|suffix| units(relay, suffix))
            .collect::<Result<Vec<_>, _>>()?
            .concat();
        let mut verify = vec!["systemd-analyze", "verify", "--man=no", "--recursive-errors=no"];
        verify.extend(ours.iter().map(String::as_str).filter(|unit| is_ours(unit)));
        context.run(relay, &verify).await?;
    }
    Ok(())
}

pub(super) async fn sandboxed(context: &Context) -> anyhow::Result<()> {
    let mut open = Vec::new();
    for unit in units("a", ".service")?.iter().filter(|unit| is_ours(unit)) {
        let analyze = ["systemd-analyze", "security", "--no-pager", EXPOSURE, unit];
        let output = context.machines()?.exec("a", &analyze).await?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            open.push(text.lines().last().unwrap_or(unit).to_owned());
        }
    }
    ensure!(open.is_empty(), "units that may do too much: {}", open.join("; "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn daemons_of_others_are_told_apart() {
        assert!(is_ours("filtermail-outgoing.service"));
        assert!(is_ours("opendkim.service"));
        assert!(!is_ours("postfix.service"));
        assert!(!is_ours("postfix-setup.service"));
    }
}
