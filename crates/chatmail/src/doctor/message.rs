//! A message through the whole path: submission, filter, signature, delivery and IMAP.

use std::net::SocketAddr;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use chatmail_core::{Address, generate};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc2822;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::Command;
use tokio::time::timeout;
use tokio_rustls::client::TlsStream;

use super::inputs::Inputs;
use super::verdict::{Verdict, failed};
use crate::account::change;
use crate::dial::{Dial, PATIENCE, Stream};
use crate::{ports, tls};

/// Longest time until the message arrives.
const ARRIVAL: Duration = Duration::from_secs(20);

/// Maximum length of a line of a server.
const MAX_LINE: u64 = 16 * 1024;

/// An OpenPGP message of random bytes. The relay sees only its structure.
const CIPHERTEXT: &str = include_str!("message.asc");

/// What an operator does if a step of the path fails.
const ADVICE: &str =
    "see `chatmail status`, `chatmail queue` and `journalctl -u postfix -u dovecot -u 'filtermail-*'`";

/// An account of its own, removed afterwards.
struct Account {
    address: String,
    password: String,
}

pub(super) async fn to_itself(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let account = match create(inputs).await {
        Ok(account) => account,
        Err(error) => return Ok(unable(&error)),
    };
    let started = Instant::now();
    let travelled = travel(inputs, &account).await;
    let time = started.elapsed();
    let removed = chatmail(inputs, &["account", "delete", "--yes", &account.address]).await;
    Ok(match travelled.and(removed) {
        Ok(_) => Verdict::Well(format!("arrives after {:.2} s", time.as_secs_f64())),
        Err(error) => unable(&error),
    })
}

/// The same with an account that has no other sessions, without closing them.
pub(super) async fn once(inputs: &Inputs) -> anyhow::Result<Duration> {
    let account = create(inputs).await?;
    let started = Instant::now();
    let travelled = travel(inputs, &account).await;
    let time = started.elapsed();
    let removed = Address::parse(&account.address)
        .map_err(anyhow::Error::from)
        .and_then(|address| change::discard(&inputs.settings, &address));
    travelled.and(removed).map(|()| time)
}

fn unable(error: &anyhow::Error) -> Verdict {
    Verdict::Found(vec![failed(
        format!("a message to the relay itself does not arrive: {error:#}"),
        ADVICE,
    )])
}

/// Runs another command of this program. Accounts change with the rights of the owner of the mail store, which the
/// checks running beside this one must not get.
async fn chatmail(inputs: &Inputs, arguments: &[&str]) -> anyhow::Result<String> {
    let program = std::env::current_exe().context("cannot find the program of this command")?;
    let output = Command::new(program)
        .arg("--settings")
        .arg(&inputs.file)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .await
        .context("cannot run chatmail")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{}", said.trim());
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

async fn create(inputs: &Inputs) -> anyhow::Result<Account> {
    let text = chatmail(inputs, &["account", "create"]).await?;
    let field = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.map(str::to_owned)
            .context("chatmail account create prints no account")
    };
    Ok(Account {
        address: field("Created address: ")?,
        password: field("Password: ")?,
    })
}

async fn travel(inputs: &Inputs, account: &Account) -> anyhow::Result<()> {
    let Account { address, password } = account;
    let id = {
        let rules = &inputs.settings.accounts;
        format!(
            "<{}@{}>",
            generate::localpart(rules, &mut rand::rng()),
            inputs.settings.domain
        )
    };
    let mut imap = Session::open(inputs, 993).await.context("IMAP on port 993")?;
    imap.line().await?;
    imap.imap("a", &format!("LOGIN {} {}", quoted(address), quoted(password)))
        .await
        .context("the login over IMAP")?;
    imap.imap("b", "SELECT INBOX").await?;
    imap.say("c IDLE").await?;

    let mut smtp = Session::open(inputs, 465).await.context("SMTP on port 465")?;
    smtp.smtp(None, "220").await?;
    smtp.smtp(Some("EHLO [127.0.0.1]"), "250").await?;
    let credentials = STANDARD.encode(format!("\0{address}\0{password}"));
    smtp.smtp(Some(&format!("AUTH PLAIN {credentials}")), "235")
        .await
        .context("the login over SMTP")?;
    smtp.smtp(Some(&format!("MAIL FROM:<{address}>")), "250").await?;
    smtp.smtp(Some(&format!("RCPT TO:<{address}>")), "250").await?;
    smtp.smtp(Some("DATA"), "354").await?;
    let date = OffsetDateTime::now_utc().format(&Rfc2822)?;
    smtp.smtp(Some(&message(address, &id, &date)), "250")
        .await
        .context("the relay does not accept the message")?;

    let arrival = async {
        loop {
            let line = imap.line().await?;
            if line.starts_with("* ") && line.ends_with(" EXISTS") && line != "* 0 EXISTS" {
                return anyhow::Ok(());
            }
        }
    };
    timeout(ARRIVAL, arrival)
        .await
        .with_context(|| format!("not within {} s", ARRIVAL.as_secs()))??;
    imap.say("DONE").await?;
    imap.until("c").await?;
    let header = imap
        .imap("d", "FETCH 1 BODY.PEEK[HEADER.FIELDS (MESSAGE-ID)]")
        .await?;
    ensure!(header.contains(&id), "another message arrives");
    Ok(())
}

/// A string of IMAP (RFC 3501 section 4.3).
fn quoted(text: &str) -> String {
    format!("\"{}\"", text.replace('\\', "\\\\").replace('"', "\\\""))
}

fn message(address: &str, id: &str, date: &str) -> String {
    let armor = CIPHERTEXT.replace('\n', "\r\n");
    format!(
        "From: <{address}>\r\nTo: \"hidden-recipients\": ;\r\nSubject: [...]\r\nDate: {date}\r\nMessage-ID: {id}\r\n\
         Chat-Version: 1.0\r\nMIME-Version: 1.0\r\n\
         Content-Type: multipart/encrypted; protocol=\"application/pgp-encrypted\";\r\n boundary=\"doctor\"\r\n\r\n\
         --doctor\r\nContent-Type: application/pgp-encrypted\r\n\r\nVersion: 1\r\n\r\n\
         --doctor\r\nContent-Type: application/octet-stream; name=\"encrypted.asc\"\r\n\r\n{armor}\r\n--doctor--\r\n."
    )
}

/// A connection to a server of the relay.
struct Session {
    stream: BufReader<TlsStream<Box<dyn Stream>>>,
}

impl Session {
    async fn open(inputs: &Inputs, port: u16) -> anyhow::Result<Self> {
        let address = ports::addresses(&inputs.settings);
        let address = *address.first().context("the relay has no address")?;
        let stream = Dial::Here.connect(SocketAddr::new(address, port)).await?;
        let presented = tls::handshake(stream, &inputs.settings.domain, None).await?;
        Ok(Self {
            stream: BufReader::new(presented.stream),
        })
    }

    async fn say(&mut self, line: &str) -> anyhow::Result<()> {
        let writing = async {
            self.stream.write_all(line.as_bytes()).await?;
            self.stream.write_all(b"\r\n").await?;
            self.stream.flush().await
        };
        timeout(PATIENCE, writing).await.context("timed out")??;
        Ok(())
    }

    /// The next line; waits for it as long as a message may take.
    async fn line(&mut self) -> anyhow::Result<String> {
        let mut line = Vec::new();
        let mut limited = (&mut self.stream).take(MAX_LINE);
        timeout(ARRIVAL, limited.read_until(b'\n', &mut line))
            .await
            .context("timed out waiting for an answer")??;
        ensure!(line.ends_with(b"\n"), "the server closed the connection");
        Ok(String::from_utf8_lossy(&line).trim_end().to_owned())
    }

    async fn smtp(&mut self, command: Option<&str>, code: &str) -> anyhow::Result<()> {
        if let Some(command) = command {
            self.say(command).await?;
        }
        loop {
            let line = self.line().await?;
            if line.as_bytes().get(3) != Some(&b'-') {
                ensure!(line.starts_with(code), "the answer is {line:?}");
                return Ok(());
            }
        }
    }

    /// Reads up to the answer to the command with this tag.
    async fn until(&mut self, tag: &str) -> anyhow::Result<String> {
        let mut text = String::new();
        for _ in 0..1000 {
            let line = self.line().await?;
            match line.strip_prefix(tag).and_then(|rest| rest.strip_prefix(' ')) {
                Some(rest) if rest.starts_with("OK") => return Ok(text),
                Some(rest) => bail!("the answer is {rest:?}"),
                None => {
                    text.push_str(&line);
                    text.push('\n');
                }
            }
        }
        bail!("the answer has no end")
    }

    async fn imap(&mut self, tag: &str, command: &str) -> anyhow::Result<String> {
        self.say(&format!("{tag} {command}")).await?;
        self.until(tag).await
    }
}
