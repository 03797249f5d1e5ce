//! `chatmail ports`: checks from the host itself that the relay is reachable and can reach other servers.

use std::fmt::Write as _;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use anyhow::{Context as _, bail, ensure};
use chatmail_core::{Settings, settings::TlsMode};
use serde::Serialize;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::{dns, status, tls};

/// Beginning of the greeting of an SMTP server; more lines may follow.
const SMTP: &str = "220";
/// Beginning of the greeting of an IMAP server.
const IMAP: &str = "* OK";

/// Beginning of the response to a request with the wrong method at `/mxdeliv`.
const HTTPS: &str = "HTTP/1.1 405";

/// Ports with implicit TLS, the ALPN protocols of clients, and the greetings of the servers.
const TLS_PORTS: [(u16, Option<&str>, &str); 5] = [
    (465, None, SMTP),
    (993, None, IMAP),
    (443, None, ""),
    (443, Some("imap"), IMAP),
    (443, Some("smtp"), SMTP),
];

/// Connect to the ports of the relay at its public addresses, and verify its certificate. Exits with status 1 if a
/// connection fails. The provider's firewall does not see these connections, so check from another machine too.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Also connect to the mail servers of a domain, over HTTPS and on port 25, which many providers block. One of both
    /// has to work.
    #[arg(long, value_name = "DOMAIN")]
    mx_of: Option<String>,
    /// Print JSON.
    #[arg(long)]
    json: bool,
}

#[derive(Serialize)]
struct Probe {
    what: String,
    /// Why it failed, if it did.
    problem: Option<String>,
    /// Whether another way works, so that mail passes nevertheless.
    replaced: bool,
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let probes = runtime.block_on(probe(cli, settings));
    let good = probes
        .iter()
        .all(|probe| probe.problem.is_none() || probe.replaced);
    let text = if cli.json {
        serde_json::to_string_pretty(&probes)? + "\n"
    } else {
        table(&probes)
    };
    Ok(crate::Answer { text, good })
}

async fn probe(cli: &Cli, settings: &Settings) -> Vec<Probe> {
    let mut probes = Vec::new();
    let mut add = |what: String, result: anyhow::Result<()>| {
        let problem = result.err().map(|error| format!("{error:#}"));
        probes.push(Probe {
            what,
            problem,
            replaced: false,
        });
    };
    let mut addresses = settings.addresses.clone();
    if addresses.is_empty() {
        addresses.push(IpAddr::V4(Ipv4Addr::LOCALHOST));
    }
    for ip in addresses {
        for port in status::ports(settings) {
            let address = SocketAddr::new(ip, port);
            add(format!("{address}"), tls::connect(address).await.map(drop));
        }
        for (port, alpn, begin) in TLS_PORTS {
            let address = SocketAddr::new(ip, port);
            let protocol = alpn.map_or_else(String::new, |name| format!(" for {name}"));
            add(
                format!("{address} TLS{protocol}"),
                verified(settings, address, alpn, begin).await,
            );
        }
        if settings.federation.https.receive {
            let address = SocketAddr::new(ip, 443);
            let checked = mxdeliv(
                address,
                &settings.domain,
                settings.tls.mode == TlsMode::SelfSigned,
            )
            .await;
            add(format!("{address} mail from other relays"), checked);
        }
    }
    if let Some(domain) = &cli.mx_of {
        probes.extend(ways_out(settings, domain).await);
    }
    probes
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
async fn mxdeliv(address: SocketAddr, host: &str, any_certificate: bool) -> anyhow::Result<()> {
    let presented = tls::handshake(address, host, None).await?;
    if let Some(reason) = presented.distrust.filter(|_| !any_certificate) {
        bail!("other relays do not trust the certificate: {reason}");
    }
    let mut stream = presented.stream;
    let name = host.trim_matches(['[', ']']);
    let request = format!("GET /mxdeliv HTTP/1.1\r\nHost: {name}\r\nConnection: close\r\n\r\n");
    let send = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await
    };
    timeout(tls::PATIENCE, send)
        .await
        .context("timed out sending a request")??;
    greeting(stream, HTTPS)
        .await
        .context("the server does not accept mail over HTTPS")
}

async fn verified(
    settings: &Settings,
    address: SocketAddr,
    alpn: Option<&str>,
    begin: &str,
) -> anyhow::Result<()> {
    let presented = tls::handshake(address, &settings.domain, alpn).await?;
    if let Some(reason) = presented
        .distrust
        .filter(|_| settings.tls.mode != TlsMode::SelfSigned)
    {
        bail!("clients do not trust the certificate: {reason}");
    }
    greeting(presented.stream, begin).await
}

/// Connects to the first mail server that answers.
async fn outgoing(settings: &Settings, domain: &str, https: bool) -> anyhow::Result<()> {
    let servers = dns::mail_servers(settings, domain).await?;
    let mut last = None;
    for (host, ip) in &servers {
        let server = SocketAddr::new(*ip, if https { 443 } else { 25 });
        let greeted = if https {
            // The names of relays with self-signed certificates begin with `_`.
            mxdeliv(server, host, host.starts_with('_')).await
        } else {
            match tls::connect(server).await {
                Ok(stream) => greeting(stream, SMTP).await,
                Err(error) => Err(error),
            }
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

/// Waits for the greeting of a server.
async fn greeting(mut stream: impl AsyncRead + Unpin, begin: &str) -> anyhow::Result<()> {
    let mut read = vec![0; begin.len()];
    timeout(tls::PATIENCE, stream.read_exact(&mut read))
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
