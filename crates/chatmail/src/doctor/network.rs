//! Checks of ports, certificates and DNS.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use anyhow::Context as _;
use chatmail_core::settings::TlsMode;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use super::inputs::Inputs;
use super::verdict::{Finding, Verdict, failed, note};
use crate::dial::{Dial, PATIENCE};
use crate::dns::{Data, Finding as Record, Need, State};
use crate::ports::{self, Probe};
use crate::tls::{self, RENEWED_DAYS};

/// Maximum size of an MTA-STS policy (RFC 8461 section 3.3 suggests 64 kB).
const MAX_POLICY: u64 = 64 * 1024;

const NO_ZONE: &str = "a relay without a name has no records";

pub(super) async fn ports(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let probes = ports::probes(&inputs.settings, &Dial::Here).await;
    Ok(judge_ports(
        &probes,
        "see `chatmail status` and the unit of the port's service",
    ))
}

pub(super) fn judge_ports(probes: &[Probe], advice: &str) -> Verdict {
    let failures = probes
        .iter()
        .filter_map(|probe| Some((probe, probe.problem.clone()?)))
        .filter(|(_, problem)| !is_distrust(problem));
    Verdict::of(grouped(failures, advice), || {
        format!("{} connections succeed", probes.len())
    })
}

/// One finding for each problem, with all ports that have it.
fn grouped<'a>(failures: impl Iterator<Item = (&'a Probe, String)>, advice: &str) -> Vec<Finding> {
    let mut groups: Vec<(String, Vec<&str>)> = Vec::new();
    for (probe, problem) in failures {
        match groups.iter_mut().find(|(known, _)| *known == problem) {
            Some((_, ports)) => ports.push(&probe.what),
            None => groups.push((problem, vec![&probe.what])),
        }
    }
    let finding =
        |(problem, ports): (String, Vec<&str>)| failed(format!("{}: {problem}", ports.join(", ")), advice);
    groups.into_iter().map(finding).collect()
}

fn is_distrust(problem: &str) -> bool {
    problem.starts_with("clients do not trust")
}

pub(super) async fn certificate(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let probes = ports::probes(&inputs.settings, &Dial::Here).await;
    Ok(judge_certificate(&probes))
}

fn judge_certificate(probes: &[Probe]) -> Verdict {
    let problem = |probe: &Probe| match (&probe.problem, probe.certificate_days) {
        (Some(problem), _) if is_distrust(problem) => Some(problem.clone()),
        (None, Some(days)) if days < RENEWED_DAYS => {
            Some(format!("the certificate expires in {days} day(s)"))
        }
        _ => None,
    };
    let failures = probes.iter().filter_map(|probe| Some((probe, problem(probe)?)));
    let found = grouped(
        failures,
        "see `journalctl -u 'acme-*' -u chatmail-certificate` and the DNS records",
    );
    let least = probes.iter().filter_map(|probe| probe.certificate_days).min();
    match least {
        None if found.is_empty() => Verdict::Skipped("no port presents a certificate".to_owned()),
        _ => Verdict::of(found, || {
            format!("valid for {} days on every port", least.unwrap_or_default())
        }),
    }
}

pub(super) async fn outgoing(inputs: &Inputs) -> anyhow::Result<Verdict> {
    if !inputs.settings.federation.smtp.send {
        return Ok(Verdict::Skipped("the relay does not send over SMTP".to_owned()));
    }
    let mut failures = Vec::new();
    for domain in &inputs.mx_of {
        match ports::outgoing(&inputs.settings, domain, false).await {
            Ok(()) => return Ok(Verdict::Well(format!("a mail server of {domain} answers"))),
            Err(error) => failures.push(format!("{domain}: {error:#}")),
        }
    }
    Ok(Verdict::Found(vec![failed(
        format!(
            "no mail server can be reached on port 25 ({})",
            failures.join("; ")
        ),
        "ask the provider to unblock outgoing connections to port 25",
    )]))
}

pub(super) async fn addresses(inputs: &Inputs) -> anyhow::Result<Verdict> {
    if !inputs.is_named() {
        return Ok(Verdict::Skipped(NO_ZONE.to_owned()));
    }
    let records = inputs.records().await?;
    let mut reached = BTreeMap::new();
    for address in published(records) {
        let connected = Dial::Here.connect(SocketAddr::new(address, 25)).await;
        reached.insert(address, connected.err().map(|error| format!("{error:#}")));
    }
    Ok(judge_addresses(records, &reached))
}

fn is_address(record: &Record) -> bool {
    matches!(record.record.data, Data::A(_) | Data::Aaaa(_))
}

/// All published addresses of the relay's name.
fn published(records: &[Record]) -> Vec<IpAddr> {
    let mut all = Vec::new();
    for record in records.iter().filter(|record| is_address(record)) {
        match (&record.state, &record.record.data) {
            (State::Right, Data::A(address)) => all.push(IpAddr::V4(*address)),
            (State::Right, Data::Aaaa(address)) => all.push(IpAddr::V6(*address)),
            (State::Differs(values), _) => {
                all.extend(values.iter().filter_map(|value| value.parse::<IpAddr>().ok()))
            }
            _ => {}
        }
    }
    all.sort();
    all.dedup();
    all
}

fn judge_addresses(records: &[Record], reached: &BTreeMap<IpAddr, Option<String>>) -> Verdict {
    let mut found = judge_records(records, is_address);
    for (address, problem) in reached {
        if let Some(problem) = problem {
            let kind = if address.is_ipv6() { "AAAA" } else { "A" };
            found.push(failed(
                format!("the name of the relay resolves to {address}, which is not reachable ({problem})"),
                format!("configure this address on the host, or remove it from the {kind} records"),
            ));
        }
    }
    Verdict::of(found, || {
        let all: Vec<_> = reached.keys().map(ToString::to_string).collect();
        format!("the name resolves to {}", all.join(" and "))
    })
}

pub(super) async fn reverse(inputs: &Inputs) -> anyhow::Result<Verdict> {
    if !inputs.is_named() {
        return Ok(Verdict::Skipped(NO_ZONE.to_owned()));
    }
    let mut names = Vec::new();
    for address in &inputs.settings.addresses {
        let found = crate::dns::reverse(&inputs.settings, *address).await?;
        names.push((*address, found));
    }
    Ok(judge_reverse(&inputs.settings.domain, &names))
}

/// An address, and the names of it with their addresses.
type Reverse = (IpAddr, Vec<(String, Vec<IpAddr>)>);

fn judge_reverse(domain: &str, addresses: &[Reverse]) -> Verdict {
    let mut found = Vec::new();
    for (address, names) in addresses {
        let leads_back = |(_, back): &&(String, Vec<IpAddr>)| back.contains(address);
        match names.first() {
            None => found.push(failed(
                format!("{address} has no name (PTR record)"),
                format!("set it to {domain}, in the provider's control panel"),
            )),
            Some((name, _)) if !names.iter().any(|name| leads_back(&name)) => found.push(failed(
                format!("{address} has the name {name}, which does not resolve to this address"),
                format!("set its PTR record to {domain}, in the provider's control panel"),
            )),
            Some(_) => {}
        }
    }
    if addresses.is_empty() {
        return Verdict::Skipped("services.chatmail.addresses is empty".to_owned());
    }
    Verdict::of(found, || {
        let names = addresses.iter().flat_map(|(_, names)| names);
        let mut names: Vec<_> = names.map(|(name, _)| name.as_str()).collect();
        names.dedup();
        format!("the addresses have the name {}", names.join(", "))
    })
}

pub(super) async fn dkim(inputs: &Inputs) -> anyhow::Result<Verdict> {
    chosen(inputs, is_dkim, "the published key is that of the relay").await
}

pub(super) async fn caa(inputs: &Inputs) -> anyhow::Result<Verdict> {
    if inputs.settings.tls.mode != TlsMode::Acme {
        return Ok(Verdict::Skipped(
            "the certificate does not come from ACME".to_owned(),
        ));
    }
    chosen(inputs, is_caa, "the record permits the certificate authority").await
}

pub(super) async fn records(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let other =
        |record: &Record| !is_address(record) && !is_dkim(record) && !is_caa(record) && !is_mta_sts(record);
    chosen(inputs, other, "all other records are right").await
}

async fn chosen(inputs: &Inputs, which: impl Fn(&Record) -> bool, summary: &str) -> anyhow::Result<Verdict> {
    if !inputs.is_named() {
        return Ok(Verdict::Skipped(NO_ZONE.to_owned()));
    }
    let found = judge_records(inputs.records().await?, which);
    Ok(Verdict::of(found, || summary.to_owned()))
}

fn is_dkim(record: &Record) -> bool {
    matches!(&record.record.data, Data::Txt(text) if text.starts_with("v=DKIM1"))
}

fn is_caa(record: &Record) -> bool {
    matches!(record.record.data, Data::CaaIssue(_))
}

fn is_mta_sts(record: &Record) -> bool {
    match &record.record.data {
        Data::Txt(text) => text.starts_with("v=STSv1"),
        Data::Cname(_) => record.record.name.starts_with("mta-sts."),
        _ => false,
    }
}

fn judge_records(records: &[Record], which: impl Fn(&Record) -> bool) -> Vec<Finding> {
    let mut found = Vec::new();
    for finding in records.iter().filter(|record| which(record)) {
        let record = &finding.record;
        let what = format!("{} {}", record.name, record.data.kind());
        let publish = "publish the value that `chatmail dns` prints";
        // A CAA record for another issuer stops renewals; a missing one does not.
        let prevents = is_caa(finding) && matches!(finding.state, State::Differs(_));
        let weight: fn(String, String) -> Finding = if record.need == Need::Required || prevents {
            failed
        } else {
            note
        };
        match &finding.state {
            State::Right => {}
            State::Missing => found.push(weight(format!("{what} is missing"), publish.to_owned())),
            State::Differs(values) => {
                let value: String = values.join(", ").chars().take(60).collect();
                found.push(weight(format!("{what} differs ({value})"), publish.to_owned()));
            }
            State::Unknown => found.push(failed(
                format!("no server answers for {what}"),
                "check the name servers of the zone",
            )),
        }
    }
    found
}

pub(super) async fn mta_sts(inputs: &Inputs) -> anyhow::Result<Verdict> {
    let settings = &inputs.settings;
    if !inputs.is_named() {
        return Ok(Verdict::Skipped(NO_ZONE.to_owned()));
    }
    if settings.tls.mode == TlsMode::SelfSigned {
        return Ok(Verdict::Skipped(
            "a relay with a self-signed certificate has no policy".to_owned(),
        ));
    }
    let policy = policy(inputs).await.map_err(|error| format!("{error:#}"));
    Ok(judge_mta_sts(inputs.records().await?, &settings.domain, &policy))
}

/// Fetches the policy as other servers do.
async fn policy(inputs: &Inputs) -> anyhow::Result<String> {
    let settings = &inputs.settings;
    let host = format!("mta-sts.{}", settings.domain);
    let address = ports::addresses(settings)
        .first()
        .copied()
        .context("the relay has no address")?;
    let stream = Dial::Here.connect(SocketAddr::new(address, 443)).await?;
    let mut presented = tls::handshake(stream, &host, None).await?;
    if let Some(reason) = presented.distrust {
        anyhow::bail!("other servers do not trust the certificate of {host}: {reason}");
    }
    let request = format!("GET /.well-known/mta-sts.txt HTTP/1.0\r\nHost: {host}\r\n\r\n");
    let mut text = Vec::new();
    let reading = async {
        presented.stream.write_all(request.as_bytes()).await?;
        let mut limited = presented.stream.take(MAX_POLICY);
        limited.read_to_end(&mut text).await
    };
    timeout(PATIENCE, reading)
        .await
        .context("timed out")?
        .context("cannot read the policy")?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

fn judge_mta_sts(records: &[Record], domain: &str, policy: &Result<String, String>) -> Verdict {
    let mut found = judge_records(records, is_mta_sts);
    let advice = "other servers with an old policy stop delivering; see `chatmail ports` and nginx";
    match policy {
        Err(error) => found.push(failed(format!("the policy cannot be fetched: {error}"), advice)),
        Ok(text) => {
            let names = text
                .lines()
                .filter_map(|line| line.split_once(':'))
                .any(|(key, value)| key == "mx" && value.trim() == domain);
            if !text.starts_with("HTTP/1.1 200") || !names {
                found.push(failed(format!("the policy does not name {domain}"), advice));
            }
        }
    }
    Verdict::of(found, || "the policy and its records are right".to_owned())
}

#[cfg(test)]
mod tests;
