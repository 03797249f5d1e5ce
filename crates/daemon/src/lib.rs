//! The life cycle of a service: settings, journal, sockets, readiness, watchdog and graceful shutdown.
//!
//! A service is a function of a [`Service`]; [`main`] does the rest. systemd passes sockets (`sd_listen_fds(3)`), so
//! that they stay open while a service restarts; without systemd, the service binds them itself.

mod http;
mod listen;
mod log;
mod metrics;
mod serve;
mod service;
pub mod socketmap;

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use chatmail_core::SettingsFile;
use clap::{Args as _, FromArgMatches as _};
use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
pub use tokio_util::sync::CancellationToken;

pub use http::{HeadLimits, serve_http, serve_http_within};
pub use listen::{Listener, Stream, connect};
pub use serve::serve;
pub use service::{DRAIN, Service};

use service::notify;

/// Time after [`DRAIN`] in which the service has to return.
const DRAIN_GRACE: Duration = Duration::from_secs(2);

/// The command line of a service.
#[derive(Debug, Clone, clap::Args)]
pub struct Cli {
    #[command(flatten)]
    settings: SettingsFile,
    /// Check the settings file and exit: with status 0 if the service could start with it.
    #[arg(long)]
    check_config: bool,
}

impl Cli {
    /// Parses the command line of a service that has no other options.
    pub fn parse(name: &'static str, about: &'static str) -> Self {
        let command = clap::Command::new(name)
            .version(env!("CARGO_PKG_VERSION"))
            .about(about);
        let matches = Self::augment_args(command).get_matches();
        Self::from_arg_matches(&matches).unwrap_or_else(|error| error.exit())
    }
}

/// Runs a service until it returns or a signal stops it.
///
/// Loads the settings, sends log lines to the journal, notifies systemd's watchdog, and cancels `Service::shutdown` on
/// SIGTERM and SIGINT. Logs an error as one line and exits with status 1.
pub fn main(cli: &Cli, run: impl AsyncFnOnce(Service) -> anyhow::Result<()>) -> ExitCode {
    log::init();
    match start(cli, run) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(cli: &Cli, run: impl AsyncFnOnce(Service) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let settings = Arc::new(cli.settings.load()?);
    if cli.check_config {
        return Ok(());
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let shutdown = CancellationToken::new();
        let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
        let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
        let _watchdog = tokio::spawn(watchdog(shutdown.clone()));
        let service = Service {
            settings,
            shutdown: shutdown.clone(),
            inherited: listen::Inherited::from_env(),
        };
        let mut running = std::pin::pin!(run(service));
        tokio::select! {
            result = &mut running => return result,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        notify(&[NotifyState::Stopping]);
        shutdown.cancel();
        match tokio::time::timeout(DRAIN + DRAIN_GRACE, running).await {
            Ok(result) => result,
            Err(_) => anyhow::bail!(
                "connections were still open {} s after the signal to stop",
                DRAIN.as_secs()
            ),
        }
    });
    // Blocking tasks that outlive the drain must not keep the process running.
    runtime.shutdown_timeout(DRAIN_GRACE);
    result
}

/// Notifies the watchdog at half its interval, from the runtime of the service: a runtime that hangs stops notifying.
async fn watchdog(shutdown: CancellationToken) {
    let mut micros = 0;
    if !sd_notify::watchdog_enabled(false, &mut micros) {
        return;
    }
    let mut interval = tokio::time::interval(Duration::from_micros(micros / 2).max(Duration::from_millis(1)));
    loop {
        tokio::select! {
            _ = interval.tick() => notify(&[NotifyState::Watchdog]),
            // From here on, systemd's stop timeout applies; the last notification covers the drain.
            () = shutdown.cancelled() => return notify(&[NotifyState::Watchdog]),
        }
    }
}
