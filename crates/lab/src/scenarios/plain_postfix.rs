//! A mail server that runs Debian's Postfix as it is installed, with a certificate and DKIM signatures, and knows nothing
//! about HTTPS. It shares the machine of the lab's name server.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::{Message, random_name};
use mailtest::client::outside::zone;
use mailtest::client::{Account, arrival, arrival_of, pgp};
use mailtest::scenarios::policy::ENCRYPTION_NEEDED;
use mailtest::until;

use super::Context;

const MACHINE: &str = "dns";
const DOMAIN: &str = "plain.test";
const HOST: &str = "mail.plain.test";
/// A user of the operating system, as Debian's Postfix expects them.
const USER: &str = "reader";
/// One relay delivers over HTTPS first, the other only over SMTP.
const RELAYS: [&str; 2] = ["a", "c"];
const WITHIN: Duration = Duration::from_secs(60);

/// Debian's configuration of OpenDKIM, with the domain and the key.
const OPENDKIM: &str = "\
Syslog yes
UMask 007
UserID opendkim
PidFile /run/opendkim/opendkim.pid
Socket inet:8891@localhost
Mode s
Domain plain.test
Selector mail
KeyFile /etc/plain/dkim.pem
OversignHeaders From
";

/// Everything else is Debian's.
const SETUP: &str = "
cp -a /usr/share/chatmail-lab/postfix /etc/postfix
postconf -e 'myhostname = mail.plain.test' 'myorigin = plain.test' \
    'mydestination = plain.test, $myhostname, localhost' \
    'smtpd_tls_cert_file = /etc/plain/chain.pem' 'smtpd_tls_key_file = /etc/plain/key.pem' \
    'smtpd_milters = inet:localhost:8891' 'non_smtpd_milters = $smtpd_milters' \
    'internal_mail_filter_classes = bounce'
openssl genrsa -out /etc/plain/dkim.pem 2048
chown opendkim /etc/plain/dkim.pem
useradd reader
touch /etc/aliases
newaliases
install -d -o opendkim -g opendkim /run/opendkim
systemctl start opendkim postfix
";

const CLEANUP: &str = "
systemctl stop postfix opendkim
userdel reader
rm -rf /etc/postfix /etc/plain /etc/opendkim.conf /var/mail/reader
";

async fn script(context: &Context, script: &str) -> anyhow::Result<String> {
    context.run(MACHINE, &["sh", "-e", "-c", script]).await
}

/// Configures and starts the server, and publishes its zone.
async fn start(context: &Context) -> anyhow::Result<()> {
    let root = context.machines().root(MACHINE);
    let folder = root.join("etc/plain");
    std::fs::create_dir_all(&folder)?;
    let (chain, key) = context.machines().certificate(&[HOST.to_owned()])?;
    std::fs::write(folder.join("chain.pem"), chain)?;
    std::fs::write(folder.join("key.pem"), key)?;
    std::fs::set_permissions(folder.join("key.pem"), std::fs::Permissions::from_mode(0o600))?;
    std::fs::write(root.join("etc/opendkim.conf"), OPENDKIM)?;
    script(context, SETUP).await?;
    let key = "openssl rsa -in /etc/plain/dkim.pem -pubout -outform DER | base64 -w 0";
    let record = format!("v=DKIM1; k=rsa; p={}", script(context, key).await?.trim());
    let address = context.topology.resolver;
    let zone = zone(DOMAIN, address.into(), &[("mail", &record)]).replace(
        &format!("MX 10 {DOMAIN}."),
        &format!("MX 10 {HOST}.\n{HOST}. 60 IN A {address}"),
    );
    context.machines().publish(DOMAIN, &zone).await
}

/// Waits until the user's mailbox contains a message with this text, and returns the mailbox.
async fn read(context: &Context, text: &str) -> anyhow::Result<String> {
    let look = || async {
        let mailbox = script(context, "cat /var/mail/reader 2>/dev/null || true").await?;
        Ok(mailbox.contains(text).then_some(mailbox))
    };
    until(WITHIN, look)
        .await
        .with_context(|| format!("the user of plain Postfix gets no message with {text:?}"))
}

/// Sends a message of the user with sendmail(1).
async fn write(context: &Context, to: &str, message: &Message) -> anyhow::Result<()> {
    let text = String::from_utf8(message.bytes())?.replace("\r\n", "\n");
    std::fs::write(context.machines().root(MACHINE).join("etc/plain/message"), text)?;
    let send = format!("sendmail -i -f {USER}@{DOMAIN} {to} < /etc/plain/message");
    script(context, &send).await.map(drop)
}

pub(super) async fn mail_both_ways(context: &Context) -> anyhow::Result<()> {
    let result = async {
        start(context).await?;
        for relay in RELAYS {
            let account = context.account(relay).await?;
            exchange(context, &account)
                .await
                .with_context(|| format!("relay {relay}"))?;
        }
        context.queues_empty(&RELAYS, WITHIN).await
    }
    .await;
    let cleaned = script(context, CLEANUP).await;
    result?;
    cleaned.map(drop)
}

/// Messages and reports of failures, from the relay and to it.
async fn exchange(context: &Context, account: &Account) -> anyhow::Result<()> {
    let (mut imap, _) = account.inbox().await?;
    let user = format!("{USER}@{DOMAIN}");
    let message = pgp::encrypted(&account.address, 2000);
    account.submit(&user, &message).await?.expect(250)?;
    let mailbox = read(context, message.id()).await?;
    ensure!(
        mailbox.contains("with ESMTPS") && mailbox.contains("DKIM-Signature: "),
        "the message arrived without TLS or a signature: {mailbox}"
    );

    let message = pgp::encrypted(&user, 2000);
    write(context, &account.address, &message).await?;
    arrival(&mut imap, message.id(), WITHIN).await?;

    let nobody = format!("{}@{DOMAIN}", random_name(9));
    account
        .submit(&nobody, &pgp::encrypted(&account.address, 2000))
        .await?
        .expect(250)?;
    let criteria = format!("FROM MAILER-DAEMON BODY {nobody}");
    let report = arrival_of(&mut imap, &criteria, WITHIN).await?;
    ensure!(
        String::from_utf8_lossy(&report).contains("Status: 5.1.1\r\n"),
        "the report does not tell that the user is unknown"
    );

    // The relay accepts any recipient of its domain, and reports later that it is unknown.
    let nobody = format!("{}@{}", random_name(9), account.peer.mail_domain);
    write(context, &nobody, &pgp::encrypted(&user, 2000)).await?;
    let mailbox = read(context, &nobody).await?;
    ensure!(
        mailbox.contains("MAILER-DAEMON@"),
        "no report about {nobody}: {mailbox}"
    );

    let cleartext = Message::cleartext(&user, &account.address, "News", "Hello everybody.");
    write(context, &account.address, &cleartext).await?;
    read(context, cleartext.id().trim_matches(['<', '>'])).await?;
    read(context, ENCRYPTION_NEEDED).await.map(drop)
}
