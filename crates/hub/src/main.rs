//! `farplane-hub`: what runs in the hub's own Pods, one subcommand per Deployment.

mod arguments;
mod artifacts;
mod download;
mod registry;

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use farplane_process::{log, stop_on_signal};
use tokio_util::sync::CancellationToken;

use arguments::{Arguments, Command};

/// Two are enough for a hub's own work and keep its memory small.
const WORKERS: usize = 2;
/// A gateway does little else than copy, so copies may yield to all that is urgent.
const BULK_NICE: i32 = 19;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    if matches!(arguments.command, Command::Version) {
        println!("farplane-hub {}", env!("CARGO_PKG_VERSION"));
        return ExitCode::SUCCESS;
    }
    log();
    match start(arguments.command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

fn start(command: Command) -> Result<()> {
    // Fails only when one was installed before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(WORKERS)
        .on_thread_start(farplane_tunnel::urgent_thread)
        .enable_all()
        .build()
        .context("start the runtime")?
        .block_on(run(command))
}

async fn run(command: Command) -> Result<()> {
    let shutdown = CancellationToken::new();
    stop_on_signal(&shutdown)?;
    match command {
        Command::Controllers(options) => {
            let settings = options.settings()?;
            let client = client().await?;
            farplane_controllers::run(client, settings, shutdown).await?;
        }
        Command::Gateway(options) => {
            let settings = options.settings()?;
            let client = client().await?;
            let bulk = farplane_tunnel::bulk_runtime(WORKERS, BULK_NICE)
                .context("start the runtime of bulk copies")?;
            let handle = bulk.handle().clone();
            let ended = farplane_gateway::run(client, settings, handle, shutdown).await;
            bulk.shutdown_background();
            ended?;
        }
        Command::Artifacts(options) => artifacts::serve(&options, shutdown).await?,
        Command::Version => {}
    }
    Ok(())
}

async fn client() -> Result<kube::Client> {
    kube::Client::try_default()
        .await
        .context("find the hub's API server")
}
