//! Throughput of messages from one relay to another: over HTTPS, over SMTP to a relay whose port 443 is closed, and with
//! Postfix's own SMTP client alone.

use mailtest::client::Peer;

use super::cost;
use super::load::{Outcome, People, Volume};
use super::relays::on_relays;
use super::report::Report;
use super::setup::{self, Setup, apply, undo};
use super::stats::milliseconds;
use super::throughput::PATIENCE;
use crate::machine::{Lab, Progress};

const FROM: &str = "a";
const TO: &str = "b";

/// How mail leaves the relay.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// The module's default, to a relay that accepts HTTPS.
    Https,
    /// The module's default, to a relay whose port 443 is closed.
    Smtp,
    /// Postfix's own SMTP client, without a lookup by filtermail-transport.
    Postfix,
}

impl Way {
    const ALL: [Self; 3] = [Self::Postfix, Self::Smtp, Self::Https];

    fn name(self) -> &'static str {
        match self {
            Self::Https => "over HTTPS",
            Self::Smtp => "over SMTP, with port 443 closed",
            Self::Postfix => "Postfix's own SMTP client",
        }
    }

    /// What the receiving relay's web server does.
    fn web_server(self) -> &'static str {
        if self == Self::Https { "start" } else { "stop" }
    }

    /// Commands on the sending relay that make mail leave in this way. A restart of filtermail-transport forgets what it
    /// knows of other relays, and a reload of Postfix closes its connections.
    fn script(self) -> &'static str {
        match self {
            Self::Https | Self::Smtp => "systemctl restart filtermail-transport\npostfix reload\n",
            Self::Postfix => {
                "for name in transport_maps smtp_delivery_status_filter; do\n\
                 postconf -e \"$name=$(postconf -h $name | sed 's/socketmap:[^, ]*//g')\"\n\
                 done\npostfix reload\n"
            }
        }
    }
}

/// How much to measure.
#[derive(Debug, clap::Args)]
pub(crate) struct Federation {
    #[command(flatten)]
    volume: Volume,
    /// Leaves the relays running
    #[arg(long)]
    keep: bool,
}

/// Measures each way from relay a to relay b.
pub(super) async fn run(arguments: &Federation) -> anyhow::Result<Report> {
    arguments.volume.check()?;
    on_relays(arguments.keep, async |lab, progress| {
        let measured = measure_all(lab, progress, arguments).await;
        setup::run(lab, TO, "systemctl start nginx").await?;
        undo(lab, FROM).await?;
        measured
    })
    .await
}

async fn measure_all(lab: &Lab, progress: &Progress, arguments: &Federation) -> anyhow::Result<Report> {
    let load = arguments.volume.load();
    let mut report = Report::new("Federation");
    report.line(format_args!(
        "{} senders, {} receivers, {} messages of {} bytes of ciphertext",
        load.senders, load.receivers, load.messages, load.size
    ));
    let mut baseline = None;
    for way in Way::ALL {
        progress.say(format_args!("measuring delivery, {}", way.name()));
        setup::run(lab, TO, &format!("systemctl {} nginx", way.web_server())).await?;
        apply(lab, FROM, Setup::Module).await?;
        setup::run(lab, FROM, way.script()).await?;
        let people = People::gather(
            &Peer::of(lab.topology(), FROM)?,
            &Peer::of(lab.topology(), TO)?,
            load,
        )
        .await?;
        let sent = cost::during(lab, FROM, people.play(load, PATIENCE));
        let ((outcome, sending), receiving) = cost::during(lab, TO, sent).await?;
        let deferred = lab
            .queue(FROM)
            .await?
            .into_iter()
            .filter(|queued| queued.delay_reason().is_some())
            .count();
        let rate = outcome.fetched_per_second();
        let baseline = *baseline.get_or_insert(rate);
        report.line(format_args!(
            "\n{}: {}",
            way.name(),
            line(&outcome, rate, rate / baseline)
        ));
        for (relay, cost) in [("sending relay", &sending), ("receiving relay", &receiving)] {
            report.line(relay);
            for line in cost.lines(outcome.sent, "message") {
                report.line(line);
            }
        }
        for target in outcome.targets(deferred, way.name()) {
            report.target(target);
        }
    }
    Ok(report)
}

fn line(outcome: &Outcome, rate: f64, ratio: f64) -> String {
    let delivery = outcome.delivery.map_or_else(
        || "none".to_owned(),
        |all| {
            format!(
                "p50 {:.1} ms, p99 {:.1} ms",
                milliseconds(all.p50),
                milliseconds(all.p99)
            )
        },
    );
    format!("{rate:.0} fetched per second ({ratio:.2} times); 250 to FETCH {delivery}")
}
