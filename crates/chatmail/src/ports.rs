//! `chatmail ports`: checks from the host itself that the relay is reachable and can reach other servers.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, ensure};
use chatmail_core::{Settings, settings::TlsMode};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::task::JoinSet;
use tokio::time::timeout;

use crate::answer::folded;
use crate::dial::{Dial, PATIENCE, Stream};
use crate::{dns, tls};

/// Beginning of the greeting of an SMTP server; more lines may follow.
const SMTP: &str = "220";
/// Beginning of the greeting of an IMAP server.
const IMAP: &str = "* OK";

/// Beginning of the response to a request with the wrong method at `/mxdeliv`.
const HTTPS: &str = "HTTP/1.1 405";

/// Maximum length of an answer before TLS begins.
const MAX_ANSWER: usize = 4096;

/// What a client does first on a port.
#[derive(Debug, Clone, Copy)]
enum Talk {
    /// Requests a page without TLS.
    Http,
    /// TLS after commands of SMTP.
    SmtpStartTls,
    /// TLS after a command of IMAP.
    ImapStartTls,
    /// TLS at once: the ALPN protocol, and the greeting of the server.
    Tls(Option<&'static str>, &'static str),
    /// Delivery over HTTPS, as other relays do.
    Mxdeliv,
}

/// The ports of a relay, the name of each probe, and what clients do there.
const PROBES: [(u16, &str, Talk); 10] = [
    (25, "STARTTLS", Talk::SmtpStartTls),
    (80, "HTTP", Talk::Http),
    (143, "STARTTLS", Talk::ImapStartTls),
    (587, "STARTTLS", Talk::SmtpStartTls),
    (465, "TLS", Talk::Tls(None, SMTP)),
    (993, "TLS", Talk::Tls(None, IMAP)),
    (443, "TLS", Talk::Tls(None, "")),
    (443, "TLS for imap", Talk::Tls(Some("imap"), IMAP)),
    (443, "TLS for smtp", Talk::Tls(Some("smtp"), SMTP)),
    (443, "mail from other relays", Talk::Mxdeliv),
];

/// Connect to the ports of the relay at its public addresses, and verify its certificate. Exits with status 1 if a
/// connection fails. The provider's firewall does not see these connections, so check from another machine too.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Also connect to the mail servers of a domain, over HTTPS and on port 25, which many providers block. One of
    /// the two has to work.
    #[arg(long, value_name = "DOMAIN")]
    mx_of: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

/// The result for one port.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Probe {
    pub(crate) what: String,
    /// Why it failed, if it did.
    pub(crate) problem: Option<String>,
    /// Whether another way works, so that mail passes nevertheless.
    pub(crate) replaced: bool,
    /// Days until the certificate of the port expires.
    pub(crate) certificate_days: Option<i64>,
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let probes = runtime.block_on(async {
        let mut probes = probes(settings, &Dial::Here).await;
        if let Some(domain) = &cli.mx_of {
            probes.extend(ways_out(settings, domain).await);
        }
        probes
    });
    let good = probes
        .iter()
        .all(|probe| probe.problem.is_none() || probe.replaced);
    let text = if cli.json {
        serde_json::to_string_pretty(&probes)? + "\n"
    } else {
        folded(&table(&probes))
    };
    Ok(crate::Answer::new(text, good))
}

/// The addresses at which others reach the relay.
pub(crate) fn addresses(settings: &Settings) -> Vec<IpAddr> {
    if settings.addresses.is_empty() {
        return vec![IpAddr::V4(Ipv4Addr::LOCALHOST)];
    }
    settings.addresses.clone()
}

/// Does at all ports of the relay what clients do first, side by side.
pub(crate) async fn probes(settings: &Settings, dial: &Dial) -> Vec<Probe> {
    let mut running = JoinSet::new();
    for (place, address) in addresses(settings).into_iter().enumerate() {
        for (row, (port, name, talk)) in PROBES.into_iter().enumerate() {
            let used = match talk {
                Talk::Mxdeliv => settings.federation.https.receive,
                _ => port != 25 || settings.federation.smtp.receive,
            };
            if !used {
                continue;
            }
            let address = SocketAddr::new(address, port);
            let (settings, dial) = (settings.clone(), dial.clone());
            running.spawn(async move {
                let result = probe(&settings, &dial, address, talk).await;
                let probe = Probe {
                    what: format!("{address} {name}"),
                    certificate_days: result.as_ref().ok().copied().flatten(),
                    problem: result.err().map(|error| format!("{error:#}")),
                    replaced: false,
                };
                ((place, row), probe)
            });
        }
    }
    let mut probes = running.join_all().await;
    probes.sort_by_key(|(order, _)| *order);
    probes.into_iter().map(|(_, probe)| probe).collect()
}

/// Days until the certificate expires, if the port has one.
async fn probe(
    settings: &Settings,
    dial: &Dial,
    address: SocketAddr,
    talk: Talk,
) -> anyhow::Result<Option<i64>> {
    let mut stream = dial.connect(address).await?;
    let (alpn, begin) = match talk {
        Talk::Http => {
            say(&mut stream, b"HEAD / HTTP/1.0\r\n\r\n").await?;
            greeting(&mut stream, "HTTP/1.").await?;
            return Ok(None);
        }
        Talk::SmtpStartTls => {
            answer(&mut stream, "220 ").await?;
            say(&mut stream, b"EHLO [127.0.0.1]\r\n").await?;
            answer(&mut stream, "250 ").await?;
            say(&mut stream, b"STARTTLS\r\n").await?;
            answer(&mut stream, "220 ").await?;
            (None, "")
        }
        Talk::ImapStartTls => {
            answer(&mut stream, "* OK").await?;
            say(&mut stream, b"a STARTTLS\r\n").await?;
            answer(&mut stream, "a OK").await?;
            (None, "")
        }
        Talk::Tls(alpn, begin) => (alpn, begin),
        Talk::Mxdeliv => {
            let any = settings.tls.mode == TlsMode::SelfSigned;
            return mxdeliv(stream, &settings.domain, any).await.map(|()| None);
        }
    };
    let mut presented = tls::handshake(stream, &settings.domain, alpn).await?;
    greeting(&mut presented.stream, begin).await?;
    let days = presented.days();
    match presented.distrust {
        Some(reason) if settings.tls.mode != TlsMode::SelfSigned => {
            anyhow::bail!("clients do not trust the certificate: {reason}")
        }
        _ => Ok(Some(days)),
    }
}

/// Checks the ways of mail to a domain. A way that does not work is no problem if the other one does.
async fn ways_out(settings: &Settings, domain: &str) -> Vec<Probe> {
    let mut probes = Vec::new();
    for (name, used) in [
        ("HTTPS", settings.federation.https.send),
        ("port 25", settings.federation.smtp.send),
    ] {
        if used {
            let result = outgoing(settings, domain, name == "HTTPS").await;
            probes.push(Probe {
                what: format!("{name} of the mail servers of {domain}"),
                problem: result.err().map(|error| format!("{error:#}")),
                replaced: false,
                certificate_days: None,
            });
        }
    }
    let any = probes.iter().any(|probe| probe.problem.is_none());
    for probe in &mut probes {
        probe.replaced = any && probe.problem.is_some();
    }
    probes
}

/// Checks that a relay accepts mail over HTTPS, without sending any.
async fn mxdeliv(stream: Box<dyn Stream>, host: &str, any_certificate: bool) -> anyhow::Result<()> {
    let mut presented = tls::handshake(stream, host, None).await?;
    if let Some(reason) = presented.distrust.filter(|_| !any_certificate) {
        anyhow::bail!("other relays do not trust the certificate: {reason}");
    }
    let name = host.trim_matches(['[', ']']);
    let request = format!("GET /mxdeliv HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    timeout(PATIENCE, say(&mut presented.stream, request.as_bytes()))
        .await
        .context("timed out sending a request")??;
    greeting(&mut presented.stream, HTTPS)
        .await
        .context("the server does not accept mail over HTTPS")
}

/// Connects to the first mail server that answers.
pub(crate) async fn outgoing(settings: &Settings, domain: &str, https: bool) -> anyhow::Result<()> {
    let servers = dns::mail_servers(settings, domain).await?;
    let mut last = None;
    for (host, ip) in &servers {
        let server = SocketAddr::new(*ip, if https { 443 } else { 25 });
        let greeted = match Dial::Here.connect(server).await {
            // The names of relays with self-signed certificates begin with `_`.
            Ok(stream) if https => mxdeliv(stream, host, host.starts_with('_')).await,
            Ok(mut stream) => greeting(&mut stream, SMTP).await,
            Err(error) => Err(error),
        };
        match greeted {
            Ok(()) => return Ok(()),
            Err(error) => last = Some(error.context(format!("cannot reach {server}"))),
        }
    }
    let last = last.with_context(|| format!("{domain} has no mail server"))?;
    Err(if https {
        last
    } else {
        last.context("the provider may block outgoing connections to port 25")
    })
}

async fn say(stream: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> anyhow::Result<()> {
    stream.write_all(bytes).await.context("cannot connect")?;
    stream.flush().await.context("cannot connect")
}

/// Reads lines up to the last one of an answer, which has to begin with `begin`.
async fn answer(stream: &mut Box<dyn Stream>, begin: &str) -> anyhow::Result<()> {
    let reading = async {
        let mut line = Vec::new();
        for _ in 0..MAX_ANSWER {
            let byte = stream
                .read_u8()
                .await
                .context("cannot connect, or the server closed the connection")?;
            line.push(byte);
            if byte == b'\n' {
                let text = String::from_utf8_lossy(&line).trim_end().to_owned();
                // RFC 5321 section 4.2.1: more lines follow.
                if text.as_bytes().get(3) == Some(&b'-') {
                    line.clear();
                    continue;
                }
                ensure!(text.starts_with(begin), "the server answers {text:?}");
                return Ok(());
            }
        }
        anyhow::bail!("the answer is longer than {MAX_ANSWER} bytes")
    };
    timeout(PATIENCE, reading)
        .await
        .context("timed out waiting for an answer")?
}

/// Waits for the greeting of a server.
async fn greeting(stream: &mut (impl AsyncRead + Unpin), begin: &str) -> anyhow::Result<()> {
    let mut read = vec![0; begin.len()];
    timeout(PATIENCE, stream.read_exact(&mut read))
        .await
        .context("timed out waiting for the greeting")?
        .context("the server sent no greeting")?;
    let read = String::from_utf8_lossy(&read);
    ensure!(read == begin, "the greeting is {read:?} instead of {begin:?}");
    Ok(())
}

fn table(probes: &[Probe]) -> String {
    let mut text = String::new();
    for probe in probes {
        let result = probe
            .problem
            .as_ref()
            .map_or("ok".to_owned(), |problem| match probe.replaced {
                true => format!("no: {problem}"),
                false => format!("FAILED: {problem}"),
            });
        let _ = writeln!(text, "{:40}  {result}", probe.what);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_fit_80_columns() {
        let probe = |what: &str, problem: Option<&str>, replaced| Probe {
            what: what.to_owned(),
            problem: problem.map(str::to_owned),
            replaced,
            certificate_days: None,
        };
        let probes = [
            probe("192.0.2.1:25 STARTTLS", None, false),
            probe(
                "192.0.2.1:443 mail from other relays",
                Some(
                    "the server does not accept mail over HTTPS: the greeting is \"HTTP/1.1 404\" instead of \"HTTP/1.1 405\"",
                ),
                false,
            ),
            probe(
                "[2001:db8:1234:5678:9abc:def0:1234:5678]:443 mail from other relays",
                Some("cannot connect: Connection refused (os error 111)"),
                false,
            ),
            probe(
                "port 25 of the mail servers of chat.example.org",
                Some(
                    "the provider may block outgoing connections to port 25: cannot reach 192.0.2.25:25: timed out after 5 s",
                ),
                true,
            ),
        ];
        crate::answer::human::check("ports", &folded(&table(&probes)));
    }
}
