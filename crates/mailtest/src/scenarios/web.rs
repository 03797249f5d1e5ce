//! Responses of a relay to browsers and mail programs over HTTP.

use anyhow::{Context as _, ensure};
use serde_json::Value;

use super::Context;
use crate::client::http::{self, Answer};
use crate::client::{Account, Peer};

/// One relay of each kind: with a self-signed certificate, and with one from a trusted CA.
const SELF_SIGNED: &str = "a";
const STRICT: &str = "c";

/// `Accept-Language` values, and how the page they select declares its language.
const LANGUAGES: [(&str, &str); 6] = [
    ("en", "<html lang=\"en\" dir=\"ltr\">"),
    ("de-AT,en;q=0.5", "<html lang=\"de\" dir=\"ltr\">"),
    ("es", "<html lang=\"es\" dir=\"ltr\">"),
    ("fr, RU;q=0.8, de;q=0.7", "<html lang=\"ru\" dir=\"ltr\">"),
    ("fa-IR", "<html lang=\"fa\" dir=\"rtl\">"),
    ("fr,den", "<html lang=\"en\" dir=\"ltr\">"),
];

async fn get(peer: &Peer, path: &str) -> anyhow::Result<Answer> {
    http::request(peer.port(443), &peer.tls, &peer.domain, "GET", path)
        .await
        .with_context(|| format!("GET {path}"))
}

/// Returns the text of a file that must exist.
async fn text(peer: &Peer, path: &str, kind: &str) -> anyhow::Result<String> {
    let answer = get(peer, path).await?;
    ensure!(answer.status == 200, "GET {path}: {}", answer.head);
    ensure!(
        answer
            .field("content-type")
            .is_some_and(|value| value.starts_with(kind)),
        "GET {path} is not {kind}: {}",
        answer.head
    );
    String::from_utf8(answer.body).with_context(|| format!("{path} is not UTF-8"))
}

async fn missing(peer: &Peer, path: &str) -> anyhow::Result<()> {
    let answer = get(peer, path).await?;
    ensure!(answer.status == 404, "GET {path}: {}", answer.head);
    Ok(())
}

pub(super) async fn site(context: &Context) -> anyhow::Result<()> {
    for relay in [SELF_SIGNED, STRICT] {
        let peer = context.peer(relay)?;
        for path in ["/", "/index.html", "/info.html", "/privacy.html"] {
            for (languages, start) in LANGUAGES {
                let page =
                    http::request_in(peer.port(443), &peer.tls, &peer.domain, "GET", path, languages).await?;
                let html = String::from_utf8_lossy(&page.body);
                ensure!(
                    page.status == 200 && html.contains(start),
                    "GET {path} in {languages}: {}\n{html}",
                    page.head
                );
                ensure!(
                    page.field("vary") == Some("Accept-Language"),
                    "caches cannot tell the languages apart: {}",
                    page.head
                );
                check_headers(&page)?;
                check_resources(&html).with_context(|| format!("{path} in {languages}"))?;
            }
        }
        text(&peer, "/style.css", "text/css").await?;
        text(&peer, "/icon.svg", "image/svg+xml").await?;
        let page = text(&peer, "/de/privacy.html", "text/html").await?;
        ensure!(page.contains("admin@example.org"), "no contact: {page}");
        let slash = get(&peer, "/de").await?;
        ensure!(
            slash.field("location") == Some("/de/"),
            "wrong redirect: {}",
            slash.head
        );

        let home = text(&peer, "/", "text/html").await?;
        let code = format!("/qr-chatmail-invite-{}", peer.domain);
        if relay == STRICT {
            let link = format!("href=\"dcaccount:https://{}/new\"", peer.domain);
            ensure!(home.contains(&link), "no invitation: {home}");
            let svg = text(&peer, &format!("{code}.svg"), "image/svg+xml").await?;
            ensure!(svg.contains("<svg"), "no picture: {svg}");
            let png = get(&peer, &format!("{code}.png")).await?;
            ensure!(
                png.status == 200
                    && png.field("content-type") == Some("image/png")
                    && png.body.starts_with(b"\x89PNG\r\n\x1a\n"),
                "no PNG: {}",
                png.head
            );
        } else {
            ensure!(
                home.contains("href=\"/new?format=link\"") && home.contains("src=\"/new?format=svg\""),
                "no invitation: {home}"
            );
            missing(&peer, &format!("{code}.svg")).await?;
        }
    }
    Ok(())
}

fn check_headers(page: &Answer) -> anyhow::Result<()> {
    let policy = page.field("content-security-policy").unwrap_or_default();
    for part in [
        "default-src 'none'",
        "frame-ancestors 'none'",
        "form-action 'none'",
    ] {
        ensure!(
            policy.split("; ").any(|found| found == part),
            "no {part}: {}",
            page.head
        );
    }
    ensure!(
        page.field("x-content-type-options") == Some("nosniff")
            && page.field("referrer-policy") == Some("no-referrer"),
        "{}",
        page.head
    );
    Ok(())
}

/// A browser loads resources from the relay only. Links may lead to other hosts.
fn check_resources(html: &str) -> anyhow::Result<()> {
    for tag in html.split('<').skip(1) {
        let loads = tag.contains("src=") || tag.contains("srcset=") || tag.starts_with("link ");
        ensure!(
            !(loads && (tag.contains("=\"http") || tag.contains("=\"//"))),
            "a resource from another host: <{tag}"
        );
        ensure!(!tag.starts_with("script"), "a script: <{tag}");
    }
    Ok(())
}

pub(super) async fn files_for_machines(context: &Context) -> anyhow::Result<()> {
    for relay in [SELF_SIGNED, STRICT] {
        let peer = context.peer(relay)?;
        for path in [
            "/.well-known/autoconfig/mail/config-v1.1.xml",
            "/mail/config-v1.1.xml",
        ] {
            let xml = text(&peer, path, "text/xml").await?;
            check_elements(&xml).with_context(|| format!("{path}: {xml}"))?;
            for (element, kind, ports) in [
                ("incomingServer", "imap", [993, 143, 443]),
                ("outgoingServer", "smtp", [465, 587, 443]),
            ] {
                let start = format!("<{element} type=\"{kind}\">");
                let servers: Vec<&str> = xml.split(start.as_str()).skip(1).collect();
                ensure!(servers.len() == ports.len(), "{element}: {xml}");
                for (server, port) in servers.iter().zip(ports) {
                    ensure!(
                        server.contains(&format!("<port>{port}</port>"))
                            && server.contains(&format!("<hostname>{}</hostname>", peer.domain)),
                        "no {kind} on port {port}: {server}"
                    );
                }
            }
        }
        let robots = text(&peer, "/robots.txt", "text/plain").await?;
        ensure!(robots == "User-agent: *\nDisallow: /\n", "robots.txt: {robots}");
        for path in [
            "/unknown",
            "/unknown.html",
            "/autodiscover/autodiscover.xml",
            "/Autodiscover/Autodiscover.xml",
            "/.well-known/autoconfig/mail/",
        ] {
            missing(&peer, path).await?;
        }

        let path = "/.well-known/mta-sts.txt";
        if relay == STRICT {
            // RFC 8461 section 3.2.
            let policy = text(&peer, path, "text/plain").await?;
            let fields: Vec<_> = policy.lines().filter_map(|line| line.split_once(": ")).collect();
            let expected = [
                ("version", "STSv1"),
                ("mode", "enforce"),
                ("mx", peer.domain.as_str()),
                ("max_age", "2419200"),
            ];
            ensure!(fields == expected, "mta-sts.txt: {policy}");
        } else {
            missing(&peer, path).await?;
        }
    }
    Ok(())
}

/// Checks that every element is closed, in the right order.
fn check_elements(xml: &str) -> anyhow::Result<()> {
    let body = xml
        .strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>")
        .context("no XML declaration at the start")?;
    let mut open = Vec::new();
    for tag in body.split('<').skip(1) {
        let (tag, _) = tag.split_once('>').context("a tag without an end")?;
        if let Some(name) = tag.strip_prefix('/') {
            ensure!(open.pop() == Some(name), "</{name}> closes another element");
        } else {
            open.push(tag.split(' ').next().unwrap_or(tag));
        }
    }
    ensure!(open.is_empty(), "unclosed elements: {open:?}");
    Ok(())
}

pub(super) async fn redirects(context: &Context) -> anyhow::Result<()> {
    for relay in [SELF_SIGNED, STRICT] {
        let peer = context.peer(relay)?;
        let domain = &peer.domain;
        let plain = http::get_plain(peer.port(80), domain, "/info.html?x=1").await?;
        let wanted = format!("https://{domain}/info.html?x=1");
        ensure!(
            plain.status == 301 && plain.field("location") == Some(wanted.as_str()),
            "port 80: {}",
            plain.head
        );
        let www = format!("www.{domain}");
        let answer = http::request(peer.port(443), &peer.tls, &www, "GET", "/info.html?x=1").await?;
        ensure!(
            answer.status == 301 && answer.field("location") == Some(wanted.as_str()),
            "{www}: {}",
            answer.head
        );
    }
    Ok(())
}

pub(super) async fn new_address(context: &Context) -> anyhow::Result<()> {
    for relay in [SELF_SIGNED, STRICT] {
        let peer = context.peer(relay)?;
        let made = http::request(peer.port(443), &peer.tls, &peer.domain, "POST", "/new").await?;
        check_account(&peer, &made, relay == SELF_SIGNED).await?;

        let asked = get(&peer, "/new").await?;
        if relay == STRICT {
            let link = format!("dcaccount:https://{}/new", peer.domain);
            ensure!(
                asked.status == 301 && asked.field("location") == Some(link.as_str()),
                "GET /new: {}",
                asked.head
            );
        } else {
            check_account(&peer, &asked, true).await?;
            let link = get(&peer, "/new?format=link").await?;
            ensure!(
                link.status == 302
                    && link
                        .field("location")
                        .is_some_and(|link| link.starts_with("dclogin:")),
                "the link of the page: {}",
                link.status
            );
            let picture = text(&peer, "/new?format=svg", "image/svg+xml").await?;
            ensure!(picture.contains("<svg"), "the page's image is not SVG: {picture}");
        }
    }
    Ok(())
}

/// The response holds an account in the format that clients expect, and a client can log in with it.
async fn check_account(peer: &Peer, answer: &Answer, with_link: bool) -> anyhow::Result<()> {
    ensure!(
        answer.status == 200 && answer.field("content-type") == Some("application/json"),
        "/new: {}",
        answer.head
    );
    let account: Value = serde_json::from_slice(&answer.body)?;
    let keys = account
        .as_object()
        .context("/new does not return an object")?
        .keys();
    let mut expected = vec!["email", "password"];
    if with_link {
        expected.insert(0, "dclogin_url");
    }
    let mut keys: Vec<&str> = keys.map(String::as_str).collect();
    keys.sort_unstable();
    ensure!(keys == expected, "/new returns the keys {keys:?}");
    let value = |key: &str| {
        account
            .get(key)
            .and_then(Value::as_str)
            .map(str::to_owned)
            .with_context(|| format!("/new: `{key}` is not a string"))
    };
    let account = Account {
        peer: peer.clone(),
        address: value("email")?,
        password: value("password")?,
    };
    let (localpart, domain) = account.address.split_once('@').unwrap_or_default();
    ensure!(
        localpart.len() == 9 && domain == peer.domain && account.password.len() >= 12,
        "/new returns {}",
        account.address
    );
    account
        .imap()
        .await
        .context("logging in with the account from /new")?;
    Ok(())
}
