//! Relays as clients reach them, and accounts on them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};

use super::imap::Imap;
use super::message::{self, Message};
use super::smtp::{Reply, Smtp};
use super::tls::Tls;
use crate::topology::{Certificate, Relay, Topology};

/// How Delta Chat names itself in EHLO.
const CLIENT_NAME: &str = "[127.0.0.1]";

/// A relay as a client reaches it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Host name, or address of a relay without a name.
    pub domain: String,
    /// What stands behind the `@` of its addresses.
    pub mail_domain: String,
    /// What the client trusts.
    pub tls: Tls,
    address: IpAddr,
}

impl Peer {
    /// The relay with this name in a topology.
    pub fn of(topology: &Topology, name: &str) -> anyhow::Result<Self> {
        let relay: &Relay = topology
            .relay(name)
            .with_context(|| format!("the lab has no relay `{name}`"))?;
        let tls = match relay.certificate {
            Certificate::SelfSigned | Certificate::Acme => Tls::name_only(),
            Certificate::LabCa => Tls::with_ca(&topology.ca_file)?,
        };
        Ok(Self {
            domain: relay.domain.clone(),
            mail_domain: relay.mail_domain(),
            tls,
            address: relay.ipv4.into(),
        })
    }

    /// The same relay for a client with other TLS.
    pub fn with_tls(&self, tls: Tls) -> Self {
        Self { tls, ..self.clone() }
    }

    /// The same relay for a client that calls it by another name.
    pub fn called(&self, name: &str) -> Self {
        Self {
            domain: name.to_owned(),
            ..self.clone()
        }
    }

    /// One of its ports.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// Submission on port 465, ready for AUTH.
    pub async fn submission(&self) -> anyhow::Result<Smtp> {
        let mut smtp = Smtp::connect_tls(self.port(465), &self.tls, &self.domain).await?;
        smtp.ehlo(CLIENT_NAME).await?;
        Ok(smtp)
    }

    /// Submission on port 587 with STARTTLS, ready for AUTH.
    pub async fn submission_starttls(&self) -> anyhow::Result<Smtp> {
        let mut smtp = Smtp::connect(self.port(587)).await?;
        smtp.ehlo(CLIENT_NAME).await?;
        smtp.starttls(&self.tls, &self.domain, CLIENT_NAME).await
    }

    /// Port 25 with STARTTLS, as another mail server with this name uses it.
    pub async fn exchange(&self, ehlo: &str) -> anyhow::Result<Smtp> {
        let mut smtp = Smtp::connect(self.port(25)).await?;
        smtp.ehlo(ehlo).await?;
        smtp.starttls(&self.tls, &self.domain, ehlo).await
    }

    /// IMAP on port 993, ready for LOGIN.
    pub async fn imap(&self) -> anyhow::Result<Imap> {
        Imap::connect_tls(self.port(993), &self.tls, &self.domain).await
    }
}

/// An account that a client has made up; the relay learns of it at the first login.
#[derive(Debug, Clone)]
pub struct Account {
    /// The relay it is on.
    pub peer: Peer,
    /// Address.
    pub address: String,
    /// Password.
    pub password: String,
}

impl Account {
    /// A new random account, in the shape that Delta Chat gives to one.
    pub fn random(peer: &Peer) -> Self {
        Self {
            peer: peer.clone(),
            address: format!("{}@{}", message::random_name(9), peer.mail_domain),
            password: message::random_password(),
        }
    }

    /// Logs in over IMAP on port 993.
    pub async fn imap(&self) -> anyhow::Result<Imap> {
        let mut imap = self.peer.imap().await?;
        imap.login(&self.address, &self.password).await?.ok()?;
        Ok(imap)
    }

    /// Logs in over IMAP and selects INBOX; also gives the number of messages in it.
    pub async fn inbox(&self) -> anyhow::Result<(Imap, u32)> {
        let mut imap = self.imap().await?;
        let exists = imap.select_inbox().await?;
        Ok((imap, exists))
    }

    /// Logs in over SMTP on port 465.
    pub async fn smtp(&self) -> anyhow::Result<Smtp> {
        let mut smtp = self.peer.submission().await?;
        smtp.auth_plain(&self.address, &self.password)
            .await?
            .expect(235)?;
        Ok(smtp)
    }

    /// Hands a message for one recipient in; gives the reply that decides.
    pub async fn submit(&self, to: &str, message: &Message) -> anyhow::Result<Reply> {
        self.smtp()
            .await?
            .send(&self.address, &[to], &message.bytes())
            .await
    }
}

/// Waits for the message with this Message-ID in the selected folder; gives it as it is stored.
pub async fn arrival(imap: &mut Imap, id: &str, within: Duration) -> anyhow::Result<Vec<u8>> {
    arrival_of(imap, &format!("HEADER Message-ID {id}"), within).await
}

/// Waits for a message that these search criteria find; gives it as it is stored.
pub async fn arrival_of(imap: &mut Imap, criteria: &str, within: Duration) -> anyhow::Result<Vec<u8>> {
    let end = Instant::now() + within;
    loop {
        let before = imap.exists();
        if let Some(sequence) = imap.search(criteria).await?.last() {
            return imap.fetch(*sequence).await;
        }
        // What the server told at the end of the search came too late to be searched.
        if imap.exists() > before {
            continue;
        }
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no message arrives with {criteria}");
        let more = imap.exists() + 1;
        let mut idle = imap.idle().await?;
        idle.exists(more, left)
            .await
            .with_context(|| format!("waiting for {criteria}"))?;
        idle.done().await?;
    }
}
