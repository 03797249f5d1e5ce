//! Settings of the measured relay.

use anyhow::{Context as _, ensure};
use serde_json::{Value, json};

use crate::machine::Lab;

/// Folder for the files of a measurement.
const FOLDER: &str = "/etc/chatmail-bench";
/// Shell command that prints the settings of the filter.
const SETTINGS: &str = "cat \"$(systemctl cat filtermail-outgoing.service | \
    grep -o '/nix/store/[^\" ]*settings.json' | head -n 1)\"";
/// A limit that no sender, and no load of this machine, reaches.
const UNLIMITED: u32 = 1_000_000;
/// Services with limits that a measurement would reach, and their programs.
const OURS: [(&str, &str); 2] = [
    ("doveauth.service", "doveauth"),
    ("filtermail-outgoing.service", "filtermail outgoing"),
];
const RESTART: &str =
    "systemctl daemon-reload && systemctl restart doveauth filtermail-outgoing dovecot postfix\n";

/// Dovecot's and Postfix's defaults for the settings of deliveries and logins that the module changes.
const DOVECOT_DEFAULTS: &str = "
lmtp_user_concurrency_limit = 10
service lmtp {
  process_limit = 100
  restart_request_count = 1
}
service imap {
  idle_kill_interval = 60 s
  process_min_avail = 0
  restart_request_count = 1
}
";
const POSTFIX_DEFAULTS: &str = "postconf -e in_flow_delay=1s lmtp_connection_cache_destinations= \
    lmtp_destination_concurrency_limit=20 lmtp_destination_recipient_limit=50 \
    lmtp_initial_destination_concurrency=5 && \
    postconf -F lmtp/unix/process_limit=100 && postfix reload";

/// Settings for concurrency.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Setup {
    /// Those of the module.
    Module,
    /// The defaults of Dovecot and Postfix, and all messages through Postfix's queue, for comparison.
    Defaults,
}

impl Setup {
    /// The name in reports.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Module => "module",
            Self::Defaults => "defaults of Dovecot and Postfix",
        }
    }
}

/// Restarts Dovecot and Postfix with these settings, and our services without the limits on messages per sender and on
/// the load for new accounts.
pub(super) async fn apply(lab: &Lab, relay: &str, setup: Setup) -> anyhow::Result<()> {
    let settings = run(lab, relay, SETTINGS).await?;
    let mut settings: Value = serde_json::from_str(&settings).context("the relay's settings")?;
    let messages = settings
        .get_mut("messages")
        .and_then(Value::as_object_mut)
        .context("the relay's settings have no limits on messages")?;
    for limit in ["burst", "max_per_minute"] {
        messages.insert(limit.to_owned(), json!(UNLIMITED));
    }
    let load = settings
        .pointer_mut("/accounts/max_load_1m")
        .context("the relay's settings have no limit on the load for new accounts")?;
    *load = json!(UNLIMITED);
    if setup == Setup::Defaults {
        let direct = settings
            .pointer_mut("/filtermail/direct_delivery")
            .context("the relay's settings do not say how the filters deliver")?;
        *direct = Value::Null;
    }
    let folder = lab.root(relay).join(FOLDER.trim_start_matches('/'));
    std::fs::create_dir_all(&folder)?;
    std::fs::write(folder.join("settings.json"), settings.to_string())?;
    let dovecot = run(lab, relay, "cat /etc/dovecot/dovecot.conf").await?;
    std::fs::write(
        folder.join("dovecot.conf"),
        format!("{dovecot}{DOVECOT_DEFAULTS}"),
    )?;
    let mut script = String::new();
    for (service, program) in OURS {
        let command = format!("/nix/store/chatmail/bin/{program} --settings {FOLDER}/settings.json");
        script.push_str(&drop_in(service, &command));
    }
    script.push_str(&match setup {
        Setup::Module => remove_drop_in("dovecot.service"),
        Setup::Defaults => drop_in(
            "dovecot.service",
            &format!("/nix/store/dovecot/bin/dovecot -F -c {FOLDER}/dovecot.conf"),
        ),
    });
    // The restart also undoes earlier changes to Postfix: its unit installs the module's settings again.
    script.push_str(RESTART);
    if setup == Setup::Defaults {
        script.push_str(POSTFIX_DEFAULTS);
    }
    run(lab, relay, &script).await?;
    Ok(())
}

/// Restores the rendered settings.
pub(super) async fn undo(lab: &Lab, relay: &str) -> anyhow::Result<()> {
    let mut script = remove_drop_in("dovecot.service");
    for (service, _) in OURS {
        script.push_str(&remove_drop_in(service));
    }
    script.push_str(&format!("rm -rf {FOLDER}\n{RESTART}"));
    run(lab, relay, &script).await?;
    Ok(())
}

fn drop_in(unit: &str, command: &str) -> String {
    let folder = format!("/run/systemd/system/{unit}.d");
    format!(
        "mkdir -p {folder} && printf '[Service]\\nExecStart=\\nExecStart={command}\\n' > {folder}/bench.conf\n"
    )
}

fn remove_drop_in(unit: &str) -> String {
    format!("rm -f /run/systemd/system/{unit}.d/bench.conf\n")
}

/// Runs a script on a relay, and returns its output.
pub(super) async fn run(lab: &Lab, relay: &str, script: &str) -> anyhow::Result<String> {
    let output = lab.exec(relay, &["sh", "-e", "-c", script]).await?;
    ensure!(
        output.status.success(),
        "`{script}` on relay {relay}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
