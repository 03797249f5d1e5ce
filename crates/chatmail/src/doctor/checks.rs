//! The table of checks, and how they run: side by side, each with a limit.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinSet;
use tokio::time::timeout;

use super::inputs::Inputs;
use super::report::{self, Line};
use super::verdict::{Verdict, failed};
use super::{elsewhere, host, message, network};

type Looking<'a> = Pin<Box<dyn Future<Output = anyhow::Result<Verdict>> + Send + 'a>>;

/// One check: it gathers facts, and a pure function judges them.
#[derive(Clone, Copy)]
pub(super) struct Check {
    pub(super) name: &'static str,
    /// Longest time in seconds.
    limit: u64,
    look: for<'a> fn(&'a Inputs) -> Looking<'a>,
}

macro_rules! checks {
    ($($name:literal, $limit:literal, $look:path;)+) => {
        [$(Check { name: $name, limit: $limit, look: |inputs| Box::pin($look(inputs)) }),+]
    };
}

/// All checks, in the order of the output.
pub(super) const CHECKS: [Check; 21] = checks! {
    "units", 20, host::units;
    "timers", 20, host::timers;
    "clock", 10, host::clock;
    "resources", 10, host::resources;
    "limits", 20, host::limits;
    "files", 20, host::files;
    "postfix", 20, host::postfix;
    "dovecot", 20, host::dovecot;
    "ports", 30, network::ports;
    "certificate", 30, network::certificate;
    "port-25-out", 30, network::outgoing;
    "addresses", 30, network::addresses;
    "reverse-dns", 30, network::reverse;
    "dkim", 30, network::dkim;
    "mta-sts", 30, network::mta_sts;
    "caa", 30, network::caa;
    "records", 30, network::records;
    "message", 60, message::to_itself;
    "from-ports", 60, elsewhere::ports;
    "from-udp", 60, elsewhere::udp;
    "from-clock", 60, elsewhere::clock;
};

/// Runs the chosen checks, all if none is chosen. `from-` checks run only with another machine.
pub(super) async fn run(inputs: &Arc<Inputs>, chosen: &[String]) -> Vec<Line> {
    let mut running = JoinSet::new();
    for (order, check) in CHECKS.into_iter().enumerate() {
        let wanted = chosen.is_empty() || chosen.iter().any(|name| name == check.name);
        if !wanted || (check.name.starts_with("from-") && inputs.from.is_none()) {
            continue;
        }
        let inputs = Arc::clone(inputs);
        running.spawn(async move {
            let verdict = match timeout(Duration::from_secs(check.limit), (check.look)(&inputs)).await {
                Ok(Ok(verdict)) => verdict,
                Ok(Err(error)) => Verdict::Found(vec![failed(
                    format!("this check failed: {error:#}"),
                    "run the command again as root",
                )]),
                Err(_) => Verdict::Found(vec![failed(
                    format!("no result within {} s", check.limit),
                    "see the load of the machine and `journalctl --priority warning`",
                )]),
            };
            (order, report::lines(check.name, verdict))
        });
    }
    let mut results = running.join_all().await;
    results.sort_by_key(|(order, _)| *order);
    results.into_iter().flat_map(|(_, lines)| lines).collect()
}
