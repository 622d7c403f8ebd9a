//! What every program that runs for long does with its log and its end.

use std::io::IsTerminal as _;

use anyhow::{Context as _, Result};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Logs to stderr, by `RUST_LOG`: lines for people on a terminal, JSON for machines otherwise.
pub fn log() {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    // It tells the bodies of messages that come back, which are users' own.
    let filter = match "lapin=error".parse() {
        Ok(directive) => filter.add_directive(directive),
        Err(_) => filter,
    };
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        builder.init();
    } else {
        builder
            .json()
            .flatten_event(true)
            .with_span_list(false)
            .init();
    }
}

/// The first SIGTERM or SIGINT asks for an orderly end, a second one ends at once.
///
/// # Errors
/// When signals cannot be watched for.
pub fn stop_on_signal(shutdown: &CancellationToken) -> Result<()> {
    let mut term = signal(SignalKind::terminate()).context("failed to watch for SIGTERM")?;
    let mut int = signal(SignalKind::interrupt()).context("failed to watch for SIGINT")?;
    let shutdown = shutdown.clone();
    tokio::spawn(async move {
        loop {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if shutdown.is_cancelled() {
                std::process::exit(1);
            }
            tracing::info!("stopping");
            shutdown.cancel();
        }
    });
    Ok(())
}
