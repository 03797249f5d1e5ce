//! `chatmail migrate` on a machine, with the settings of a reference relay.

use std::fs;

use anyhow::{Context as _, ensure};

use super::Context;
use crate::project;

const RELAY: &str = "a";
/// Documentation of all options, generated from the module.
const OPTIONS: &str = "docs/options.md";
/// One setting for each option that there can be.
const INI: &str = "\
[params]
mail_domain = chat.example.org
max_user_send_per_minute = 80
max_user_send_burst_size = 20
max_mailbox_size = 1G
max_message_size = 52428800
delete_mails_after = 40
delete_large_after = 14
delete_inactive_users_after = 180
username_min_length = 6
username_max_length = 12
password_min_length = 10
max_load_1m = 7.5
min_available_memory = 300M
min_free_disk_space = 2G
max_imap_connections = 20000
max_smtp_connections = 500
tls_external_cert_and_key = /etc/ssl/fullchain.pem /etc/ssl/privkey.pem
www_folder = www
disable_ipv6 = True
iroh_relay =
mtail_address = 10.0.0.2
imap_rawlog = true
imap_compress = true
privacy_postal = Example Association
    Example Street 1
privacy_mail = privacy@example.org
privacy_pdo = Officer
privacy_supervisor = Authority
mailboxes_dir = /srv/mail
";

pub(super) async fn options(context: &Context) -> anyhow::Result<()> {
    let machines = context.machines()?;
    let file = "var/lib/lab-chatmail.ini";
    fs::write(machines.root(RELAY).join(file), INI)?;
    let command = ["chatmail", "migrate", &format!("/{file}")];
    let module = context.run(RELAY, &command).await?;
    let path = project::root().join(OPTIONS);
    let known = fs::read_to_string(&path).with_context(|| path.display().to_string())?;
    let mut names = 0;
    for line in module.lines().filter_map(|line| line.strip_prefix("  services.")) {
        let (name, _) = line.split_once(" = ").context("an option has no value")?;
        ensure!(
            known.contains(&format!("\n## services.{name}\n")),
            "there is no option services.{name}"
        );
        names += 1;
    }
    ensure!(
        names >= INI.lines().count() - 2,
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
            && said.contains("line 3: `max_message_size`: expected a whole number, found `30M`"),
        "chatmail migrate: {said}"
    );
    Ok(())
}
