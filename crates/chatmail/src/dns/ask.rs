//! Queries to name servers: the relay's own resolver, and the authoritative servers of the zone.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::Context as _;
use hickory_resolver::TokioResolver;
use hickory_resolver::config::{NameServerConfig, ResolverConfig, ResolverOpts};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use hickory_resolver::proto::rr::{RData, RecordType};
use tokio::task::JoinSet;

/// Longest wait for one answer.
const TIMEOUT: Duration = Duration::from_secs(3);

/// Maximum number of name servers of a zone that are queried.
const MAX_SERVERS: usize = 6;

/// A name and a type of record.
pub(crate) type Question = (String, RecordType);

/// The values at a name in the format of a zone file, except for text, which is unquoted and joined.
pub(crate) type Answers = BTreeMap<Question, Vec<String>>;

/// A server that answers queries.
#[derive(Clone)]
pub(crate) struct Server {
    /// Name of the server in remarks.
    pub(crate) name: String,
    resolver: TokioResolver,
}

/// The authoritative servers of a zone, and remarks on those that do not answer.
pub(crate) struct Authority {
    pub(crate) servers: Vec<Server>,
    pub(crate) remarks: Vec<String>,
}

impl Server {
    /// The resolver that the relay uses.
    pub(crate) fn resolver(address: SocketAddr) -> anyhow::Result<Self> {
        Self::new(format!("the resolver {address}"), &[address], true)
    }

    fn new(name: String, addresses: &[SocketAddr], recursive: bool) -> anyhow::Result<Self> {
        let servers = addresses.iter().map(|address| {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            for connection in &mut server.connections {
                connection.port = address.port();
            }
            server
        });
        let config = ResolverConfig::from_name_servers(servers.collect());
        let mut options = ResolverOpts::default();
        options.timeout = TIMEOUT;
        options.attempts = 1;
        options.cache_size = 0;
        options.recursion_desired = recursive;
        let resolver = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default())
            .with_options(options)
            .build()
            .with_context(|| format!("cannot set up {name}"))?;
        Ok(Self { name, resolver })
    }

    /// The values at a name; an error if the server does not answer.
    pub(super) async fn values(&self, (name, kind): &Question) -> Result<Vec<String>, String> {
        match self.resolver.lookup(format!("{name}."), *kind).await {
            Ok(lookup) => Ok(lookup
                .answers()
                .iter()
                .filter(|record| record.record_type() == *kind)
                .map(|record| text(&record.data))
                .collect()),
            Err(error) if error.is_no_records_found() => Ok(Vec::new()),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Sends all queries at once. Queries without an answer are omitted; it is an error if none is answered.
    pub(crate) async fn answers(&self, questions: &[Question]) -> Result<Answers, String> {
        let mut asked = JoinSet::new();
        for question in questions.iter().cloned() {
            let server = self.clone();
            asked.spawn(async move { (server.values(&question).await, question) });
        }
        let mut answers = Answers::new();
        let mut failure = "no question was asked".to_owned();
        while let Some(Ok((values, question))) = asked.join_next().await {
            match values {
                Ok(values) => drop(answers.insert(question, values)),
                Err(error) => failure = error,
            }
        }
        if answers.is_empty() {
            Err(failure)
        } else {
            Ok(answers)
        }
    }

    /// See [`super::mail_servers`].
    pub(super) async fn mail_servers(&self, domain: &str) -> anyhow::Result<Vec<(String, IpAddr)>> {
        let values = self.values(&(domain.to_owned(), RecordType::MX)).await;
        let values = values.map_err(|error| anyhow::anyhow!("{} does not answer: {error}", self.name))?;
        let mut hosts: Vec<(u16, &str)> = values
            .iter()
            .filter_map(|value| value.split_once(' '))
            .filter_map(|(preference, host)| Some((preference.parse().ok()?, host.trim_end_matches('.'))))
            .collect();
        hosts.sort_unstable();
        if hosts.is_empty() {
            hosts.push((0, domain));
        }
        let mut found = Vec::new();
        for (_, host) in hosts {
            let addresses = self.addresses(host).await;
            found.extend(
                addresses
                    .into_iter()
                    .map(|address| (host.to_owned(), address.ip())),
            );
        }
        Ok(found)
    }

    pub(super) async fn addresses(&self, host: &str) -> Vec<SocketAddr> {
        let mut found: Vec<IpAddr> = Vec::new();
        for kind in [RecordType::A, RecordType::AAAA] {
            let values = self.values(&(host.to_owned(), kind)).await.unwrap_or_default();
            found.extend(values.iter().filter_map(|value| value.parse::<IpAddr>().ok()));
        }
        found.into_iter().map(|ip| SocketAddr::new(ip, 53)).collect()
    }
}

/// Finds the name servers of the zone of `domain`, without those that do not answer this host: the primary may be
/// hidden, and a firewall may allow queries only to the resolver.
pub(crate) async fn authority(resolver: &Server, domain: &str) -> Authority {
    let mut found = Authority {
        servers: Vec::new(),
        remarks: Vec::new(),
    };
    let Some((zone, hosts)) = delegation(resolver, domain).await else {
        found.remarks.push(format!("found no name servers for {domain}"));
        return found;
    };
    for host in hosts.iter().take(MAX_SERVERS) {
        match server(resolver, &zone, host).await {
            Ok(server) => found.servers.push(server),
            Err(reason) => found
                .remarks
                .push(format!("the name server {host} cannot be asked: {reason}")),
        }
    }
    if found.servers.is_empty() {
        found.remarks.push(format!(
            "{} was asked instead; it may return old answers from its cache",
            resolver.name
        ));
    }
    found
}

async fn delegation(resolver: &Server, domain: &str) -> Option<(String, Vec<String>)> {
    let mut zone = domain;
    loop {
        let hosts = resolver.values(&(zone.to_owned(), RecordType::NS)).await;
        let mut hosts = hosts.unwrap_or_default();
        if !hosts.is_empty() {
            hosts
                .iter_mut()
                .for_each(|host| host.truncate(host.trim_end_matches('.').len()));
            hosts.sort();
            return Some((zone.to_owned(), hosts));
        }
        // Do not query the servers of top-level domains.
        zone = zone
            .split_once('.')
            .map(|(_, parent)| parent)
            .filter(|parent| parent.contains('.'))?;
    }
}

async fn server(resolver: &Server, zone: &str, host: &str) -> Result<Server, String> {
    let addresses = resolver.addresses(host).await;
    if addresses.is_empty() {
        return Err("it has no address".to_owned());
    }
    let server = Server::new(host.to_owned(), &addresses, false).map_err(|error| format!("{error:#}"))?;
    let start = server.values(&(zone.to_owned(), RecordType::SOA)).await?;
    if start.is_empty() {
        return Err(format!("it does not have the zone {zone}"));
    }
    Ok(server)
}

fn text(data: &RData) -> String {
    match data {
        RData::TXT(text) => String::from_utf8_lossy(&text.txt_data.concat()).into_owned(),
        other => other.to_string(),
    }
}
