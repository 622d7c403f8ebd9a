//! `farplane-functions`: the function platform, one role per process.
//!
//! The fetcher and the builder run in tenants' Pods, one for each: they use one thread and no more
//! memory than they need. The others are the platform's own.

mod arguments;
mod health;
mod secret;

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser as _;
use farplane_control::leader::Election;
use farplane_functions_builds as builds;
use farplane_functions_executor as executor;
use farplane_functions_router as router;
use farplane_functions_sidecar::{builder, fetcher};
use farplane_functions_storage as storage;
use farplane_functions_triggers as triggers;
use farplane_process::{log, stop_on_signal};
use k8s_openapi::api::coordination::v1::Lease;
use kube::Api;
use tokio::runtime::Builder;
use tokio_util::sync::CancellationToken;

use arguments::{
    Arguments, Common, ControllerOptions, ExecutorOptions, Role, RouterOptions, StorageOptions,
};

/// Two are enough for what one Pod does, and keep its memory small.
const WORKERS: usize = 2;
/// Who holds it builds packages.
const BUILDS_LEASE: &str = "fission-builds";

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log();
    match start(arguments.role) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!(error = format!("{error:#}"), "ended");
            ExitCode::FAILURE
        }
    }
}

fn start(role: Role) -> Result<()> {
    // Fails only when one was installed before, which is as good.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let mut builder = match role {
        // The router has threads of its own for calls.
        Role::Router(_) | Role::Fetcher { .. } | Role::Builder { .. } | Role::Copy { .. } => {
            Builder::new_current_thread()
        }
        _ => {
            let mut builder = Builder::new_multi_thread();
            builder.worker_threads(WORKERS);
            builder
        }
    };
    let runtime = builder.enable_all().build().context("start the runtime")?;
    runtime.block_on(Box::pin(run(role)))
}

async fn run(role: Role) -> Result<()> {
    let shutdown = CancellationToken::new();
    stop_on_signal(&shutdown)?;
    match role {
        Role::Router(options) => run_router(options, shutdown).await,
        Role::Executor(options) => run_executor(options, shutdown).await,
        Role::Controllers(options) => run_controllers(options, shutdown).await,
        Role::Storage(options) => run_storage(options, shutdown).await,
        Role::Fetcher { arguments } => {
            let settings = fetcher::Settings::read(arguments, variable)?;
            let address = settings.listen;
            fetcher::run(settings, shutdown)
                .await
                .with_context(|| format!("listen on {address}"))
        }
        Role::Builder { arguments } => {
            let settings = builder::Settings::read(arguments, variable)?;
            let address = settings.listen;
            builder::run(settings, shutdown)
                .await
                .with_context(|| format!("listen on {address}"))
        }
        Role::Copy { path } => copy(&path),
    }
}

async fn run_router(options: RouterOptions, shutdown: CancellationToken) -> Result<()> {
    let (client, secret) = platform(&options.common).await?;
    let settings = router::Settings {
        public: options.public,
        internal: options.internal,
        forwarded: options.forwarded,
        metrics: options.common.metrics,
        executor_url: options.executor_url,
        queue_url: options.queue_url,
        login: options
            .username
            .zip(options.password)
            .map(|(username, password)| router::Credentials { username, password }),
        namespace: options.common.namespace,
        pod_name: options.common.pod_name,
        traces: router::Traces::from_env().map_err(anyhow::Error::msg)?,
        secret,
        version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(router::run(client, settings, shutdown).await?)
}

async fn run_executor(options: ExecutorOptions, shutdown: CancellationToken) -> Result<()> {
    let (client, secret) = platform(&options.common).await?;
    let settings = executor::Settings {
        listen: options.listen,
        metrics: options.common.metrics,
        namespace: options.common.namespace,
        pod_name: options.common.pod_name,
        secret,
        fetcher_image: options.image,
        pull_policy: options.pull_policy,
        storage_url: options.storage_url,
    };
    Ok(executor::run(client, settings, shutdown).await?)
}

async fn run_controllers(options: ControllerOptions, shutdown: CancellationToken) -> Result<()> {
    let (client, secret) = platform(&options.common).await?;
    let builds = builds::Settings::new(
        secret.clone(),
        options.image,
        options.pull_policy,
        options.storage_url,
    );
    let settings = triggers::Settings {
        namespace: options.common.namespace.clone(),
        pod_name: options.common.pod_name.clone(),
        router_url: options.router_url,
        secret,
        metrics: triggers::MetricsSource::RouterPods,
        cluster_domain: options.cluster_domain,
        invocations: Some(triggers::InvocationSettings {
            listen: options.queue_listen,
            directory: options.queue_directory,
        }),
        nats_url: options.nats_url,
        exposure: options.exposure,
    };
    let probes = health::serve(options.common.metrics, shutdown.clone());
    let building = lead_builds(
        client.clone(),
        options.common.pod_name,
        options.common.namespace,
        builds,
        shutdown.clone(),
    );
    let work = async { Ok(triggers::run(client, settings, shutdown).await?) };
    tokio::try_join!(probes, building, work).map(drop)
}

/// Builds packages, once the lease for that is ours.
async fn lead_builds(
    client: kube::Client,
    identity: String,
    namespace: String,
    settings: builds::Settings,
    shutdown: CancellationToken,
) -> Result<()> {
    let leases = Api::<Lease>::namespaced(client.clone(), &namespace);
    let election = Election::new(leases, BUILDS_LEASE, &identity);
    let stop = shutdown.clone();
    let work = async {
        builds::run(client, settings, stop)
            .await
            .map_err(anyhow::Error::from)
    };
    election.lead(&shutdown, Box::pin(work)).await
}

async fn run_storage(options: StorageOptions, shutdown: CancellationToken) -> Result<()> {
    let (client, secret) = platform(&options.common).await?;
    let mut settings = storage::Settings::local(options.directory.clone(), vec![secret]);
    settings.listen = options.listen;
    if let Some(bucket) = storage::S3::read(variable) {
        let spool = options.directory;
        settings.backend = storage::Backend::S3 { bucket, spool };
    }
    let live = storage::packages::of_packages(client);
    let probes = health::serve(options.common.metrics, shutdown.clone());
    let work = async { Ok(storage::run(settings, Some(live), shutdown).await?) };
    tokio::try_join!(probes, work).map(drop)
}

/// What every part of the platform needs: the API server and the master secret.
async fn platform(common: &Common) -> Result<(kube::Client, Vec<u8>)> {
    let client = kube::Client::try_default()
        .await
        .context("find the API server")?;
    let secret = secret::master(&client, &common.namespace).await?;
    Ok((client, secret))
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Copies this program, so that a container of another image can run it.
fn copy(path: &Path) -> Result<()> {
    let own = std::env::current_exe().context("find this program")?;
    std::fs::copy(&own, path)
        .map(drop)
        .with_context(|| format!("copy {} to {}", own.display(), path.display()))
}
