//! The relay finds the mail servers of a destination, whatever records lead to them, over HTTPS as over SMTP.

use std::time::Duration;

use anyhow::{Context as _, ensure};
use mailtest::client::message::random_name;
use mailtest::client::pgp;
use tokio::net::TcpListener;
use tokio::time::timeout;

use super::Context;
use super::federation::Site;
use super::signed::receive;
use crate::harness::tls;
use crate::machine::dead_addresses;

const RELAY: &str = "a";
const WITHIN: Duration = Duration::from_secs(45);

/// What is special, the records of the domain `to.ZONE`, and the server. Nothing listens at REFUSED.
const CASES: [(&str, &[&str], &str); 5] = [
    ("no MX", &["to.ZONE. 60 IN A HOST"], "to.ZONE"),
    (
        "a CNAME without MX",
        &["to.ZONE. 60 IN CNAME real.ZONE.", "real.ZONE. 60 IN A HOST"],
        "to.ZONE",
    ),
    (
        "a CNAME with an MX",
        &[
            "to.ZONE. 60 IN CNAME real.ZONE.",
            "real.ZONE. 60 IN MX 10 mx.ZONE.",
            "mx.ZONE. 60 IN A HOST",
        ],
        "mx.ZONE",
    ),
    (
        "an MX that is a CNAME",
        &[
            "to.ZONE. 60 IN MX 10 mx.ZONE.",
            "mx.ZONE. 60 IN CNAME real.ZONE.",
            "real.ZONE. 60 IN A HOST",
        ],
        "mx.ZONE",
    ),
    (
        "a second MX",
        &[
            "to.ZONE. 60 IN MX 20 second.ZONE.",
            "to.ZONE. 60 IN MX 10 first.ZONE.",
            "first.ZONE. 60 IN A REFUSED",
            "second.ZONE. 60 IN A HOST",
        ],
        "second.ZONE",
    ),
];

pub(super) async fn found(context: &Context) -> anyhow::Result<()> {
    let sender = context.account(RELAY).await?;
    let refused = *dead_addresses(RELAY, 2)?.last().context("no address")?;
    let host = context.topology.host;
    for (what, records, server) in CASES {
        for port in [443, 25] {
            let zone = format!("{}.test", random_name(9));
            let fill = |text: &str| {
                text.replace("ZONE", &zone)
                    .replace("HOST", &host.to_string())
                    .replace("REFUSED", &refused.to_string())
            };
            // Without an SOA record, the resolver treats a missing record as a failure.
            let head = "ZONE. 60 IN SOA ZONE. x.ZONE. 1 60 60 60 0\nZONE. 60 IN NS ZONE.\nZONE. 60 IN A HOST";
            let text = fill(&format!("{head}\n{}\n", records.join("\n")));
            context.machines().publish(&zone, &text).await?;
            let server = fill(server);
            let message = pgp::encrypted(&sender.address, 2000);
            let arriving = async {
                if port == 443 {
                    let site = Site::new(context, &server).await?;
                    return Ok(site.answer(Some(("200 OK", "250 OK"))).await?.body);
                }
                let certificate = context.machines().certificate(std::slice::from_ref(&server))?;
                let listener = TcpListener::bind((host, 25)).await?;
                receive(&listener, tls::acceptor(&certificate, &[])?).await
            };
            let to = format!("someone@to.{zone}");
            let (got, sent) = tokio::join!(timeout(WITHIN, arriving), sender.submit(&to, &message));
            sent?.expect(250)?;
            let got = got.with_context(|| format!("{what}: nothing arrives on port {port}"))??;
            ensure!(
                String::from_utf8_lossy(&got).contains(message.id()),
                "{what}: another message arrived on port {port}"
            );
        }
    }
    context.queues_empty(&[RELAY], WITHIN).await
}
