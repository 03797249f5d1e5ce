//! Metrics of a service, in the text format of Prometheus.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context as _, anyhow};
use axum::Router;
use axum::http::header;
use axum::routing::get;
use chatmail_core::settings::Metrics;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio_util::sync::CancellationToken;

use crate::http::serve_http;
use crate::listen::Inherited;
use crate::service::Service;

/// Bounds of the buckets of all histograms, in seconds.
const BUCKETS: [f64; 11] = [0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 60.0];
/// Maximum number of connections: a few Prometheus servers, and a person with a browser.
const MAX_CONNECTIONS: usize = 16;
/// Interval at which measured times are sorted into their buckets; until then, each takes memory.
const UPKEEP: Duration = Duration::from_secs(60);
/// Media type of the text format.
const TEXT: &str = "text/plain; version=0.0.4; charset=utf-8";

impl Service {
    /// Serves metrics at `/metrics` until the service stops, if the settings contain an address for it. Otherwise, or
    /// if the socket is not available, the service runs without metrics. `describe` names all metrics and sets them to
    /// zero, so that they exist before the first event.
    pub fn serve_metrics(
        &mut self,
        address: impl FnOnce(&Metrics) -> SocketAddr,
        describe: impl FnOnce(),
    ) -> anyhow::Result<()> {
        self.serve_metrics_with(address, describe, String::new)
    }

    /// The same, with further metrics in the text format, for labels that do not last.
    pub fn serve_metrics_with(
        &mut self,
        address: impl FnOnce(&Metrics) -> SocketAddr,
        describe: impl FnOnce(),
        more: impl Fn() -> String + Clone + Send + Sync + 'static,
    ) -> anyhow::Result<()> {
        let Some(address) = self.settings.metrics.as_ref().map(address) else {
            return Ok(());
        };
        let listener = match self.inherited.metrics(address) {
            Ok(listener) => listener,
            Err(error) => {
                tracing::warn!("running without metrics: {error:#}");
                return Ok(());
            }
        };
        let recorder = PrometheusBuilder::new()
            .set_buckets(&BUCKETS)
            .context("cannot set up the metrics")?
            .build_recorder();
        let handle = recorder.handle();
        metrics::set_global_recorder(recorder).map_err(|_| anyhow!("metrics are set up twice"))?;
        describe();
        tokio::spawn(keep_up(handle.clone(), self.shutdown.clone()));
        let service = Self {
            settings: Arc::clone(&self.settings),
            shutdown: self.shutdown.clone(),
            inherited: Inherited::none(),
        };
        let text = async move || ([(header::CONTENT_TYPE, TEXT)], handle.render() + &more());
        let router = Router::new().route("/metrics", get(text));
        tokio::spawn(async move { serve_http(&service, listener, MAX_CONNECTIONS, router).await });
        Ok(())
    }
}

async fn keep_up(handle: PrometheusHandle, shutdown: CancellationToken) {
    let mut interval = tokio::time::interval(UPKEEP);
    loop {
        tokio::select! {
            _ = interval.tick() => handle.run_upkeep(),
            () = shutdown.cancelled() => return,
        }
    }
}
