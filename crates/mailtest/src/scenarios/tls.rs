//! All ports require TLS, and port 443 serves SMTP, IMAP and HTTPS.

use anyhow::{Context as _, ensure};
use rustls::version::{TLS12, TLS13};

use super::Context;
use crate::client::imap::{Imap, Status};
use crate::client::smtp::Smtp;
use crate::client::wire::WireError;
use crate::client::{Peer, http, message, outside};

pub(super) async fn port_25(context: &Context) -> anyhow::Result<()> {
    for relay in &context.topology.relays {
        let peer = context.peer(&relay.name)?;
        let mut plain = Smtp::connect(peer.port(25)).await?;
        plain.ehlo(outside::DOMAIN).await?;
        ensure!(
            plain.extensions().iter().any(|line| line == "STARTTLS"),
            "no STARTTLS: {:?}",
            plain.extensions()
        );
        let reply = plain
            .command(&format!("MAIL FROM:<someone@{}>", outside::DOMAIN))
            .await?;
        reply.expect_start("530 5.7.0 ")?;

        let secured = peer.exchange(outside::DOMAIN).await?;
        ensure!(
            secured.secured().is_some_and(|tls| tls.version == "TLSv1_3"),
            "no TLS 1.3 on port 25"
        );
        let mut older = Smtp::connect(peer.port(25)).await?;
        older.ehlo(outside::DOMAIN).await?;
        let tls = peer.tls.clone().only(&TLS12);
        older
            .starttls(&tls, &peer.domain, outside::DOMAIN)
            .await
            .context("TLS 1.2 from another server")?;
    }
    Ok(())
}

/// Checks that the TLS handshake fails, and no step before it.
fn handshake_refused<T>(result: anyhow::Result<T>, what: &str) -> anyhow::Result<()> {
    let Err(error) = result else {
        anyhow::bail!("{what} accepts TLS 1.2")
    };
    let refused = matches!(error.downcast_ref(), Some(WireError::Tls(..)));
    ensure!(refused, "{what} with TLS 1.2: {error:#}");
    Ok(())
}

pub(super) async fn client_ports(context: &Context) -> anyhow::Result<()> {
    for relay in &context.topology.relays {
        let peer = context.peer(&relay.name)?;
        let old = peer.with_tls(peer.tls.clone().only(&TLS12));
        handshake_refused(old.submission().await, "port 465")?;
        handshake_refused(old.submission_starttls().await, "port 587")?;
        handshake_refused(old.imap().await, "port 993")?;
        let starttls = async |peer: &Peer| {
            Imap::connect(peer.port(143))
                .await?
                .starttls(&peer.tls, &peer.domain)
                .await
        };
        handshake_refused(starttls(&old).await, "port 143")?;

        let new = peer.with_tls(peer.tls.clone().only(&TLS13));
        new.submission().await.context("port 465")?;
        new.submission_starttls().await.context("port 587")?;
        new.imap().await.context("port 993")?;
        starttls(&new).await.context("port 143")?;

        // The server must reject a password that a client sends without encryption.
        let name = message::random_name(9);
        let mut plain = Imap::connect(peer.port(143)).await?;
        let login = plain.login(&format!("{name}@{}", peer.domain), &name).await?;
        ensure!(login.status != Status::Ok, "port 143 accepts a login without TLS");
        let mut plain = Smtp::connect(peer.port(587)).await?;
        plain.ehlo("[127.0.0.1]").await?;
        let auth = plain
            .auth_plain(&format!("{name}@{}", peer.domain), &name)
            .await?;
        ensure!(
            !auth.is_positive(),
            "port 587 accepts a login without TLS: {auth}"
        );
    }
    Ok(())
}

pub(super) async fn port_443(context: &Context) -> anyhow::Result<()> {
    for relay in &context.topology.relays {
        let peer = context.peer(&relay.name)?;
        let address = peer.port(443);
        let (domain, tls) = (&peer.domain, &peer.tls);
        let smtp = Smtp::connect_tls(address, &tls.clone().alpn("smtp"), domain)
            .await
            .context("ALPN smtp")?;
        ensure!(smtp.greeting().code == 220, "ALPN smtp: {}", smtp.greeting());
        let imap = Imap::connect_tls(address, &tls.clone().alpn("imap"), domain)
            .await
            .context("ALPN imap")?;
        ensure!(
            !imap.greeting_capabilities().is_empty(),
            "ALPN imap: a greeting without capabilities"
        );
        for alpn in [None, Some("http/1.1")] {
            let tls = alpn.map_or_else(|| tls.clone(), |name| tls.clone().alpn(name));
            let page = http::request(address, &tls, domain, "GET", "/")
                .await
                .context("HTTPS")?;
            ensure!(page.status == 200, "GET / returns {}", page.head);
            let agreed = page.secured.and_then(|tls| tls.alpn);
            ensure!(
                agreed.as_deref() == alpn,
                "offered {alpn:?}, agreed on {agreed:?}"
            );
        }
        let path = "/.well-known/autoconfig/mail/config-v1.1.xml";
        let xml = http::request(address, tls, domain, "GET", path).await?;
        let text = String::from_utf8_lossy(&xml.body).into_owned();
        ensure!(
            xml.status == 200 && text.contains("<port>443</port>"),
            "autoconfig: {} {text}",
            xml.head
        );
        let missing = http::request(address, tls, domain, "GET", "/autodiscover/autodiscover.xml").await?;
        ensure!(
            missing.status == 404,
            "a page that clients would parse as configuration: {}",
            missing.head
        );
    }
    Ok(())
}

/// Browsers can use HTTP/2 and TLS 1.2, and nginx does not reveal its version.
pub(super) async fn https(context: &Context) -> anyhow::Result<()> {
    for relay in ["a", "c"] {
        let peer = context.peer(relay)?;
        for version in [&TLS12, &TLS13] {
            let tls = peer.tls.clone().only(version);
            let page = http::request(peer.port(443), &tls, &peer.domain, "GET", "/").await?;
            ensure!(page.status == 200, "{version:?}: {}", page.head);
            ensure!(
                page.field("server") == Some("nginx"),
                "nginx reveals its version: {}",
                page.head
            );
        }
        let alpn = http::agreed(peer.port(443), &peer.tls.clone().alpn("h2"), &peer.domain).await?;
        ensure!(
            alpn.as_deref() == Some("h2"),
            "offered h2, the server chose {alpn:?}"
        );
    }
    Ok(())
}
