//! Log lines: to the journal under systemd, else to standard error.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;

/// At `info`, libraries log names and connections; only their warnings are kept.
const DEFAULT_FILTER: &str = "info,h2=warn,hickory_net=warn,hickory_proto=warn,hickory_resolver=warn,hyper=warn,hyper_util=warn,reqwest=warn,rustls=warn";

/// Sets up the log of the process. `RUST_LOG` sets the level.
pub(crate) fn init() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER));
    let registry = tracing_subscriber::registry().with(filter);
    let journal = std::env::var_os("JOURNAL_STREAM").and_then(|_| tracing_journald::layer().ok());
    match journal {
        Some(journal) => registry.with(journal).init(),
        None => registry
            .with(
                tracing_subscriber::fmt::layer()
                    .without_time()
                    .with_target(false)
                    .with_ansi(std::io::stderr().is_terminal())
                    .with_writer(std::io::stderr),
            )
            .init(),
    }
}
