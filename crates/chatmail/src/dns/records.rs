//! The records of a relay, derived from its settings.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use chatmail_core::settings::{Settings, TlsMode};

/// A record of the relay's zone. Names are fully qualified, without the final dot.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) need: Need,
    pub(crate) name: String,
    pub(crate) data: Data,
}

/// How important a record is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Need {
    /// Without it, mail is not delivered or a page is not reachable.
    Required,
    /// Without it, forgery is easier, or other mail clients have to be configured manually.
    Recommended,
}

/// Type and value of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Data {
    A(Ipv4Addr),
    Aaaa(Ipv6Addr),
    Mx {
        preference: u16,
        host: String,
    },
    Cname(String),
    Txt(String),
    /// `issue` property (RFC 8659 section 4.2), not critical.
    CaaIssue(String),
    /// The only server, so priority and weight have no meaning (RFC 2782).
    Srv {
        port: u16,
        host: String,
    },
}

/// Why the relay has no zone.
#[derive(Debug, thiserror::Error, PartialEq, Eq)]
pub(crate) enum RecordsError {
    /// The domain of the relay is an IP address.
    #[error("a relay whose domain is an address literal ({0}) has no zone: it needs no DNS records")]
    AddressLiteral(String),
    /// The settings contain no address for the zone.
    #[error("the A and AAAA records need a public address of the relay; set services.chatmail.addresses")]
    NoAddress,
}

/// Fails for a relay whose domain is an IP address: it has neither a zone nor a key.
pub(crate) fn zone_exists(settings: &Settings) -> Result<(), RecordsError> {
    if settings.domain.starts_with('[') {
        return Err(RecordsError::AddressLiteral(settings.domain.clone()));
    }
    Ok(())
}

/// The records of a relay, in the order in which an operator sets them up.
pub(crate) fn of(settings: &Settings, dkim_public_key: &str) -> Result<Vec<Record>, RecordsError> {
    let domain = &settings.domain;
    let dns = &settings.dns;
    zone_exists(settings)?;
    if settings.addresses.is_empty() {
        return Err(RecordsError::NoAddress);
    }
    let below = |label: &str| format!("{label}.{domain}");
    let record = |need| move |name: String, data| Record { need, name, data };

    let required = record(Need::Required);
    let mut records: Vec<_> = settings
        .addresses
        .iter()
        .map(|address| match *address {
            IpAddr::V4(v4) => Data::A(v4),
            IpAddr::V6(v6) => Data::Aaaa(v6),
        })
        .map(|data| required(domain.clone(), data))
        .collect();
    records.push(required(
        domain.clone(),
        Data::Mx {
            preference: 10,
            host: domain.clone(),
        },
    ));
    records.push(required(below("www"), Data::Cname(domain.clone())));
    // The policy is only published if other servers can verify the certificate (RFC 8461 sections 3.1 and 3.3).
    if verifiable(settings.tls.mode) {
        records.push(required(below("mta-sts"), Data::Cname(domain.clone())));
        let policy = format!("v=STSv1; id={}", dns.mta_sts_id);
        records.push(required(below("_mta-sts"), Data::Txt(policy)));
    }
    records.push(required(
        below(&format!("{}._domainkey", settings.dkim.selector)),
        Data::Txt(format!("v=DKIM1;k=rsa;p={dkim_public_key};s=email;t=s")),
    ));

    let recommended = record(Need::Recommended);
    records.push(recommended(domain.clone(), Data::Txt("v=spf1 a ~all".to_owned())));
    records.push(recommended(
        below("_dmarc"),
        Data::Txt("v=DMARC1;p=reject;adkim=s;aspf=s".to_owned()),
    ));
    records.push(recommended(
        below("_adsp._domainkey"),
        Data::Txt("dkim=discardable".to_owned()),
    ));
    // Any authority may have issued an external certificate.
    if settings.tls.mode == TlsMode::Acme {
        let issuer = match &dns.acme_account_uri {
            Some(uri) => format!("letsencrypt.org;accounturi={uri}"),
            None => "letsencrypt.org".to_owned(),
        };
        records.push(recommended(domain.clone(), Data::CaaIssue(issuer)));
    }
    for (service, port) in [
        ("_submission._tcp", 587),
        ("_submissions._tcp", 465),
        ("_imap._tcp", 143),
        ("_imaps._tcp", 993),
    ] {
        let host = domain.clone();
        records.push(recommended(below(service), Data::Srv { port, host }));
    }
    Ok(records)
}

fn verifiable(mode: TlsMode) -> bool {
    match mode {
        TlsMode::Acme | TlsMode::External => true,
        TlsMode::SelfSigned => false,
    }
}
