//! HTTP/1.1 on the socket of a service.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_util::sync::CancellationToken;

use crate::listen::Listener;
use crate::serve::serve;
use crate::service::Service;

/// Maximum time for the head of a request, and for an idle connection.
const IDLE: Duration = Duration::from_secs(60);

/// Maximum size of the head of a request.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Maximum number of header fields.
    pub fields: usize,
    /// Maximum size in bytes, and of the part of a body that is read at once.
    pub bytes: usize,
}

impl HeadLimits {
    /// More than the clients of our own services send.
    const SMALL: Self = Self {
        fields: 100,
        bytes: 128 * 1024,
    };
}

/// Serves HTTP requests until the service has to stop, as [`crate::serve`] does; requests in progress are completed.
pub async fn serve_http<L>(service: &Service, listener: L, max_connections: usize, router: Router)
where
    L: Listener,
    L::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve_http_within(service, listener, max_connections, router, HeadLimits::SMALL).await;
}

/// As [`serve_http`], for requests with larger or smaller heads.
pub async fn serve_http_within<L>(
    service: &Service,
    listener: L,
    max_connections: usize,
    router: Router,
    limits: HeadLimits,
) where
    L: Listener,
    L::Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    serve(service, listener, max_connections, |stream| {
        connection(stream, router.clone(), service.shutdown.clone(), limits)
    })
    .await;
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    router: Router,
    shutdown: CancellationToken,
    limits: HeadLimits,
) {
    let mut connection = std::pin::pin!(
        http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(IDLE)
            .max_headers(limits.fields)
            .max_buf_size(limits.bytes)
            .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router))
    );
    let result = tokio::select! {
        result = connection.as_mut() => result,
        () = shutdown.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = result {
        tracing::debug!("HTTP connection failed: {error}");
    }
}
