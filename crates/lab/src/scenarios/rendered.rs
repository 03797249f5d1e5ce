//! What the NixOS module has rendered is accepted by the daemons that it is for.

use std::path::Path;

use anyhow::{Context as _, bail, ensure};

use super::Context;

const RELAYS: [&str; 3] = ["a", "b", "c"];
/// Units of NixOS's that are rendered with ours.
const FOREIGN: [&str; 4] = ["dovecot", "nginx", "postfix", "unbound"];
/// The exposure that `systemd-analyze security` may find, in tenths.
const EXPOSURE: &str = "--threshold=20";

/// Names of the rendered units of a relay that end with `suffix`.
fn units(relay: &str, suffix: &str) -> anyhow::Result<Vec<String>> {
    let directory = format!(
        "{}/../../tests/rendered/lab-{relay}/units",
        env!("CARGO_MANIFEST_DIR")
    );
    let entries = Path::new(&directory)
        .read_dir()
        .with_context(|| format!("reading {directory}"))?;
    let mut names = Vec::new();
    for entry in entries {
        let name = entry?.file_name().to_string_lossy().into_owned();
        if name.ends_with(suffix) {
            names.push(name);
        }
    }
    names.sort();
    ensure!(!names.is_empty(), "no {suffix} in {directory}");
    Ok(names)
}

fn is_ours(unit: &str) -> bool {
    !FOREIGN
        .iter()
        .any(|foreign| unit.split(['.', '-', '@']).next() == Some(foreign))
}

/// The argument after `option` in the command line that a unit starts its daemon with.
async fn argument(context: &Context, relay: &str, unit: &str, option: &str) -> anyhow::Result<String> {
    let text = context.run(relay, &["systemctl", "cat", unit]).await?;
    let commands = text.lines().filter_map(|line| line.strip_prefix("ExecStart="));
    for command in commands {
        let mut words = command.split_whitespace().skip_while(|word| *word != option);
        if let (Some(_), Some(value)) = (words.next(), words.next()) {
            return Ok(value.trim_matches(['\'', '"']).to_owned());
        }
    }
    bail!("{unit} of relay {relay} starts nothing with {option}")
}

pub(super) async fn accepted(context: &Context) -> anyhow::Result<()> {
    for relay in RELAYS {
        let dovecot = argument(context, relay, "dovecot.service", "-c").await?;
        let nginx = argument(context, relay, "nginx.service", "-c").await?;
        let opendkim = argument(context, relay, "opendkim.service", "-x").await?;
        let unbound = argument(context, relay, "unbound.service", "-c").await?;
        let checks: [&[&str]; 5] = [
            &["postfix", "check"],
            &["doveconf", "-n", "-c", &dovecot],
            &["nginx", "-t", "-c", &nginx],
            &["opendkim", "-n", "-x", &opendkim],
            &["unbound-checkconf", &unbound],
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
