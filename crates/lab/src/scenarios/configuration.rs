//! The daemons accept the configuration that the NixOS module renders.

use std::fs;

use anyhow::{Context as _, bail, ensure};

use super::Context;
use crate::committed;

const RELAYS: [&str; 5] = ["a", "b", "c", "d", "e"];
/// This relay has no DKIM key and no signer.
const WITHOUT_NAME: &str = "d";
/// Units of NixOS in the rendering.
const FOREIGN: [&str; 6] = ["acme", "dovecot", "nginx", "postfix", "restic", "unbound"];
/// Settings of Postfix 3.11.
const NEWER: [&str; 2] = ["requiretls_enable", "requiretls_esmtp_header"];
/// Maximum exposure level of `systemd-analyze security`, out of 10.
const EXPOSURE: f64 = 1.5;
/// Folder in a machine for the units to rate.
const RATED: &str = "/var/lib/lab-rated-units";

/// Returns the names of a relay's rendered units that end with `suffix`.
fn units(relay: &str, suffix: &str) -> anyhow::Result<Vec<String>> {
    let files = committed::load(&format!("lab-{relay}"))?;
    let names = files
        .keys()
        .filter_map(|path| path.strip_prefix("units").ok()?.to_str());
    let names: Vec<_> = names
        .filter(|name| name.ends_with(suffix))
        .map(str::to_owned)
        .collect();
    ensure!(
        !names.is_empty(),
        "the rendering of relay {relay} has no {suffix}"
    );
    Ok(names)
}

/// Returns every distinct version of our services in the rendering of any host, as name and text.
fn our_services() -> anyhow::Result<Vec<(String, String)>> {
    let mut services = Vec::new();
    for host in committed::hosts()? {
        for (path, text) in committed::load(&host)? {
            let Some(name) = path.strip_prefix("units").ok().and_then(|name| name.to_str()) else {
                continue;
            };
            let service = (name.to_owned(), text);
            if name.ends_with(".service") && is_ours(name) && !services.contains(&service) {
                services.push(service);
            }
        }
    }
    ensure!(!services.is_empty(), "the rendering has no services");
    Ok(services)
}

fn is_ours(unit: &str) -> bool {
    !FOREIGN
        .iter()
        .any(|foreign| unit.split(['.', '-', '@']).next() == Some(foreign))
}

/// Returns the program that a unit starts, and the argument after `option` on its command line.
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
    bail!("{unit} of relay {relay} has no command with {option}")
}

pub(super) async fn accepted(context: &Context) -> anyhow::Result<()> {
    for relay in RELAYS {
        let (nginx, nginx_conf) = command(context, relay, "nginx.service", "-c").await?;
        let (_, unbound_conf) = command(context, relay, "unbound.service", "-c").await?;
        // Postfix and Dovecot read their files in /etc, as when systemd starts them.
        let checks: [&[&str]; 4] = [
            &["postfix", "check"],
            &["doveconf", "-n"],
            &[&nginx, "-t", "-c", &nginx_conf],
            &["unbound-checkconf", &unbound_conf],
        ];
        for check in checks {
            context.run(relay, check).await?;
        }
        if relay != WITHOUT_NAME {
            let (opendkim, conf) = command(context, relay, "opendkim.service", "-x").await?;
            context.run(relay, &[&opendkim, "-n", "-x", &conf]).await?;
        }
        // The module sets parameters of a newer Postfix than Debian's.
        // Postfix treats unknown names as user-defined parameters, and warns about them only here.
        let output = context.machines().exec(relay, &["postconf", "-n"]).await?;
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        let warnings: String = said
            .lines()
            .filter(|line| !NEWER.iter().any(|name| line.contains(&format!("{name}="))))
            .collect();
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

/// Parses the unit and its exposure level from the last line of `systemd-analyze security`.
fn rating(line: &str) -> Option<(&str, f64)> {
    let (_, rest) = line.split_once("Overall exposure level for ")?;
    let (unit, rest) = rest.split_once(": ")?;
    Some((unit, rest.split(' ').next()?.parse().ok()?))
}

pub(super) async fn sandboxed(context: &Context) -> anyhow::Result<()> {
    let directory = context.machines().root("a").join(RATED.trim_start_matches('/'));
    let services = our_services()?;
    let mut open = Vec::new();
    for (number, (unit, text)) in services.iter().enumerate() {
        // The same name again is another version of the unit, rated separately.
        let place = format!("{number}/{unit}");
        let file = directory.join(&place);
        fs::create_dir_all(directory.join(number.to_string()))?;
        fs::write(&file, text).with_context(|| format!("writing {}", file.display()))?;
        let path = format!("{RATED}/{place}");
        let rate = [
            "systemd-analyze",
            "security",
            "--no-pager",
            "--offline=true",
            &path,
        ];
        let output = context.run("a", &rate).await?;
        let (rated, exposure) = output
            .lines()
            .find_map(rating)
            .with_context(|| format!("no rating of {unit}: {output}"))?;
        ensure!(rated == unit, "{unit} was rated as {rated}");
        if exposure > EXPOSURE {
            open.push(format!("{unit} {exposure}"));
        }
    }
    fs::remove_dir_all(&directory)?;
    ensure!(
        open.is_empty(),
        "units with too much exposure: {}",
        open.join(", ")
    );
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

    #[test]
    fn ratings_are_read() {
        let line = "→ Overall exposure level for opendkim.service: 0.5 SAFE :-D";
        assert_eq!(rating(line), Some(("opendkim.service", 0.5)));
        assert_eq!(rating("✓ PrivateTmp= Service has no access"), None);
    }

    /// Returns the non-empty values of `key` in a unit.
    fn set<'a>(text: &'a str, key: &str) -> Vec<&'a str> {
        text.lines()
            .filter_map(|line| line.strip_prefix(key)?.strip_prefix('='))
            .filter(|value| !value.is_empty())
            .collect()
    }

    #[test]
    fn every_service_of_ours_is_bounded_and_comes_back() {
        let services = our_services().unwrap();
        let names: Vec<&str> = services.iter().map(|(name, _)| name.as_str()).collect();
        for some in [
            "iroh-relay.service",
            "filtermail-incoming.service",
            "chatmail-fsreport-textfile.service",
        ] {
            assert!(names.contains(&some), "{some} is not rendered for any host");
        }
        for (name, text) in &services {
            for bound in ["MemoryMax", "TasksMax"] {
                let values = set(text, bound);
                assert!(
                    values.len() == 1 && values[0] != "infinity",
                    "{name} has {bound} {values:?}"
                );
            }
            if set(text, "Type") == ["oneshot"] {
                continue;
            }
            assert_eq!(set(text, "Restart"), ["always"], "{name}");
            assert_eq!(set(text, "RestartSec").len(), 1, "{name} has no RestartSec");
            assert_eq!(set(text, "StartLimitIntervalSec"), ["0"], "{name} may give up");
        }
    }
}
