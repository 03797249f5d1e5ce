//! `chatmail dns`: the records in the zone of the relay.

mod ask;
mod check;
mod compare;
mod dkim;
mod records;
mod zone;

use std::net::IpAddr;

use chatmail_core::Settings;
use hickory_resolver::proto::rr::{Name, RecordType};
use time::OffsetDateTime;

pub(crate) use self::compare::{Finding, State};
#[cfg(test)]
pub(crate) use self::records::Record;
pub(crate) use self::records::{Data, Need};
pub(crate) use self::zone::beside;

/// Maximum number of names of an address that are looked up.
const MAX_NAMES: usize = 8;

/// Print the DNS records of the relay, or check that they are published.
#[derive(clap::Args)]
pub(crate) struct Cli {
    /// Compare the records with those of the zone's name servers and of the relay's resolver. Exits with status 1 if
    /// required records are missing or differ.
    #[arg(long, conflicts_with = "zone")]
    check: bool,
    /// Print the result of the check as JSON.
    #[arg(long, requires = "check")]
    json: bool,
    /// Print a zone file that name servers can load.
    #[arg(long)]
    zone: bool,
    /// Omit SOA and NS from the zone file, for import into an existing zone.
    #[arg(long, requires = "zone")]
    without_soa: bool,
    /// Serial of the SOA record; defaults to the time in seconds.
    #[arg(
        long,
        requires = "zone",
        conflicts_with = "without_soa",
        value_name = "NUMBER"
    )]
    serial: Option<u32>,
}

pub(crate) fn run(cli: &Cli, settings: &Settings) -> anyhow::Result<crate::Answer> {
    records::zone_exists(settings)?;
    let key = dkim::public_key(&settings.dkim.key_file)?;
    let records = records::of(settings, &key)?;
    if cli.check {
        return check::run(settings, &records, cli.json);
    }
    if !cli.zone {
        return Ok(zone::table(&settings.domain, &records).into());
    }
    let head = if cli.without_soa {
        zone::Head::None
    } else {
        zone::Head::Soa {
            serial: cli.serial.unwrap_or_else(now),
        }
    };
    Ok(zone::file(&settings.domain, head, &records).into())
}

/// Serials may wrap around (RFC 1982), so the truncation in 2106 is harmless.
fn now() -> u32 {
    let seconds = OffsetDateTime::now_utc().unix_timestamp().rem_euclid(1 << 32);
    u32::try_from(seconds).unwrap_or_default()
}

/// Names and addresses of the mail servers of a domain, those with the lowest preference first (RFC 5321 section 5.1).
pub(crate) async fn mail_servers(
    settings: &Settings,
    domain: &str,
) -> anyhow::Result<Vec<(String, std::net::IpAddr)>> {
    ask::Server::resolver(settings.filtermail.resolver)?
        .mail_servers(domain)
        .await
}

/// The records of the relay, compared with the published ones.
pub(crate) async fn findings(settings: &Settings) -> anyhow::Result<Vec<Finding>> {
    let key = dkim::public_key(&settings.dkim.key_file)?;
    let records = records::of(settings, &key)?;
    Ok(check::check(settings, &records).await?.findings)
}

/// The names of an address, and for each the addresses that it leads to.
pub(crate) async fn reverse(
    settings: &Settings,
    address: IpAddr,
) -> anyhow::Result<Vec<(String, Vec<IpAddr>)>> {
    let resolver = ask::Server::resolver(settings.filtermail.resolver)?;
    let question = Name::from(address).to_ascii().trim_end_matches('.').to_owned();
    let names = resolver
        .values(&(question, RecordType::PTR))
        .await
        .map_err(|error| anyhow::anyhow!("{} does not answer: {error}", resolver.name))?;
    let mut found = Vec::new();
    for name in names.into_iter().take(MAX_NAMES) {
        let name = name.trim_end_matches('.').to_owned();
        let addresses = resolver.addresses(&name).await;
        found.push((name, addresses.into_iter().map(|address| address.ip()).collect()));
    }
    Ok(found)
}
