//! Probes of parts that have no server of their own for them.

use std::net::SocketAddr;

use anyhow::{Context as _, Result};
use axum::Router;
use axum::routing::get;
use tokio_util::sync::CancellationToken;

/// Answers `/healthz` and `/readyz` until the shutdown; both are well while the process is.
///
/// # Errors
/// When the address cannot be listened on.
pub async fn serve(address: SocketAddr, shutdown: CancellationToken) -> Result<()> {
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .with_context(|| format!("listen on {address}"))?;
    let well = || async { "ok" };
    let router = Router::new()
        .route("/healthz", get(well))
        .route("/readyz", get(well));
    axum::serve(listener, router)
        .with_graceful_shutdown(shutdown.cancelled_owned())
        .await
        .context("serve probes")
}
