//! Relays from a client's point of view, and accounts on them.

use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tokio::net::TcpStream;

use super::imap::Imap;
use super::message::{self, Message};
use super::smtp::{Reply, Smtp};
use super::tls::Tls;
use crate::topology::{Certificate, Login, Relay, Topology};

/// The name that Delta Chat sends in EHLO.
const CLIENT_NAME: &str = "[127.0.0.1]";

/// A relay, with the settings that a client needs to connect to it.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Host name, or IP address of a relay without a domain name.
    pub domain: String,
    /// The part of its mail addresses after the `@`.
    pub mail_domain: String,
    /// TLS settings of the client.
    pub tls: Tls,
    address: IpAddr,
    /// Token of an invitation with which clients sign up.
    pub invitation: Option<String>,
    /// Accounts that exist already; clients use them instead of signing up.
    pub accounts: Vec<Login>,
}

impl Peer {
    /// Returns the relay with this name in a topology.
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
            address: relay.address(),
            invitation: relay.invitation.clone(),
            accounts: relay.accounts.clone(),
        })
    }

    /// Returns the same relay with other TLS settings.
    pub fn with_tls(&self, tls: Tls) -> Self {
        Self { tls, ..self.clone() }
    }

    /// Returns the same relay under another name.
    pub fn called(&self, name: &str) -> Self {
        Self {
            domain: name.to_owned(),
            ..self.clone()
        }
    }

    /// Returns the socket address of a port.
    pub fn port(&self, port: u16) -> SocketAddr {
        SocketAddr::new(self.address, port)
    }

    /// One of the accounts that exist already; none if there are none.
    pub fn existing(&self, number: usize) -> Option<Account> {
        let login = self
            .accounts
            .iter()
            .cycle()
            .nth(number % self.accounts.len().max(1))?;
        Some(Account {
            peer: self.clone(),
            address: login.address.clone(),
            password: login.password.clone(),
        })
    }

    /// Code or link with which Delta Chat signs up.
    pub fn code(&self) -> String {
        match &self.invitation {
            Some(token) => format!("DCACCOUNT:https://{}/new?token={token}", self.domain),
            None => format!("dcaccount:{}", self.domain),
        }
    }

    /// Connects to port 465 (submission), ready for AUTH.
    pub async fn submission(&self) -> anyhow::Result<Smtp> {
        let mut smtp = Smtp::connect_tls(self.port(465), &self.tls, &self.domain).await?;
        smtp.ehlo(CLIENT_NAME).await?;
        Ok(smtp)
    }

    /// Connects to port 587 (submission) with STARTTLS, ready for AUTH.
    pub async fn submission_starttls(&self) -> anyhow::Result<Smtp> {
        let mut smtp = Smtp::connect(self.port(587)).await?;
        smtp.ehlo(CLIENT_NAME).await?;
        smtp.starttls(&self.tls, &self.domain, CLIENT_NAME).await
    }

    /// Connects to port 25 with STARTTLS, as a mail server with this name.
    pub async fn exchange(&self, ehlo: &str) -> anyhow::Result<Smtp> {
        self.greet(Smtp::connect(self.port(25)).await?, ehlo).await
    }

    /// The same on a connection that is already open.
    pub async fn exchange_over(&self, stream: TcpStream, ehlo: &str) -> anyhow::Result<Smtp> {
        self.greet(Smtp::over(stream).await?, ehlo).await
    }

    async fn greet(&self, mut smtp: Smtp, ehlo: &str) -> anyhow::Result<Smtp> {
        smtp.ehlo(ehlo).await?;
        smtp.starttls(&self.tls, &self.domain, ehlo).await
    }

    /// Connects to port 993 (IMAP), ready for LOGIN.
    pub async fn imap(&self) -> anyhow::Result<Imap> {
        Imap::connect_tls(self.port(993), &self.tls, &self.domain).await
    }
}

/// An account that a client has generated; the relay creates it at the first login.
#[derive(Debug, Clone)]
pub struct Account {
    /// The relay of the account.
    pub peer: Peer,
    /// Address.
    pub address: String,
    /// Password.
    pub password: String,
}

impl Account {
    /// Generates a random account with the name and password lengths of Delta Chat.
    pub fn random(peer: &Peer) -> Self {
        Self {
            peer: peer.clone(),
            address: format!("{}@{}", message::random_name(9), peer.mail_domain),
            password: format!(
                "{}{}",
                peer.invitation.as_deref().unwrap_or_default(),
                message::random_password()
            ),
        }
    }

    /// Link with which Delta Chat logs in.
    pub fn link(&self) -> String {
        let plain = |text: &str| -> String {
            text.bytes()
                .map(|byte| match byte {
                    b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' => {
                        char::from(byte).to_string()
                    }
                    byte => format!("%{byte:02X}"),
                })
                .collect()
        };
        let host = &self.peer.domain;
        let server = if self.peer.mail_domain == *host {
            String::new()
        } else {
            format!("&ih={host}&sh={host}&ip=993&sp=465&ic=3&ss=default")
        };
        format!(
            "dclogin:{}/?p={}&v=1{server}",
            self.address,
            plain(&self.password)
        )
    }

    /// Logs in over IMAP on port 993.
    pub async fn imap(&self) -> anyhow::Result<Imap> {
        let mut imap = self.peer.imap().await?;
        imap.login(&self.address, &self.password).await?.ok()?;
        Ok(imap)
    }

    /// Logs in over IMAP and selects INBOX; also returns the number of messages in it.
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

    /// Submits a message for one recipient; returns the reply that decides.
    pub async fn submit(&self, to: &str, message: &Message) -> anyhow::Result<Reply> {
        self.smtp()
            .await?
            .send(&self.address, &[to], &message.bytes())
            .await
    }
}

/// Waits for the message with this Message-ID in the selected folder; returns it as stored.
pub async fn arrival(imap: &mut Imap, id: &str, within: Duration) -> anyhow::Result<Vec<u8>> {
    arrival_of(imap, &format!("HEADER Message-ID {id}"), within).await
}

/// Waits for a message that matches these search criteria; returns it as stored.
pub async fn arrival_of(imap: &mut Imap, criteria: &str, within: Duration) -> anyhow::Result<Vec<u8>> {
    let end = Instant::now() + within;
    loop {
        let before = imap.exists();
        if let Some(sequence) = imap.search(criteria).await?.last() {
            return imap.fetch(*sequence).await;
        }
        // The search did not cover messages that the server announced at its end.
        if imap.exists() > before {
            continue;
        }
        let left = end.saturating_duration_since(Instant::now());
        ensure!(!left.is_zero(), "no message that matches {criteria} arrived");
        let more = imap.exists() + 1;
        let mut idle = imap.idle().await?;
        idle.exists(more, left)
            .await
            .with_context(|| format!("waiting for {criteria}"))?;
        idle.done().await?;
    }
}
