//! HTTP/1.1 on a service's socket.

use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};

use crate::{CancellationToken, Listener, Service};

/// How long a connection may take to send the head of a request, or stay open without one.
const IDLE: Duration = Duration::from_secs(60);

/// Largest head of a request.
#[derive(Debug, Clone, Copy)]
pub struct HeadLimits {
    /// Header fields.
    pub fields: usize,
    /// Bytes, and bytes of a body that are read at once.
    pub bytes: usize,
}

impl HeadLimits {
    /// More than clients of our own services send.
    const SMALL: Self = Self {
        fields: 100,
        bytes: 128 * 1024,
    };
}

/// Answers HTTP requests until the service has to end, as [`crate::serve`] does; a request that is under way then
/// is still answered.
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
    crate::serve(service, listener, max_connections, |stream| {
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
        tracing::debug!("a connection ended early: {error}");
    }
}
