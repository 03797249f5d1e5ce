//! `chatmail dns`: the records in the zone of the relay.

mod ask;
mod check;
mod compare;
mod dkim;
mod records;
mod zone;

use chatmail_core::Settings;
use time::OffsetDateTime;

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
