//! One HTTP connection from nginx.

use std::time::Duration;

use axum::Router;
use daemon::CancellationToken;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;

/// How long a connection may take to send a request's header, and may stay idle before one.
const HEADER_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers requests until the peer closes, stays idle for too long, or the service ends: then a request that is
/// under way is still answered.
pub(crate) async fn serve(stream: UnixStream, router: Router, shutdown: CancellationToken) {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEADER_TIMEOUT)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let result = tokio::select! {
        result = &mut connection => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("connection ended: {error}");
    }
}
