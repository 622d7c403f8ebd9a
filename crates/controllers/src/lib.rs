//! The hub's controllers: custom resources in, objects at the hub and plans of hosts out.
//!
//! Each kind has a module with the same steps: gather (reads), decide (pure), apply
//! (writes), status (also after a failure). Only the holder of a lease works; a process
//! that loses it ends, so two never work at once.
//!
//! - [`hub_keys`]: certificate authorities and the gateway's certificate
//! - [`organization`], [`endpoint`], [`host`], [`cluster`]: one kind each
//! - [`plan`]: holds deleted plans until their host has undone them

mod cluster;
mod context;
mod endpoint;
mod error;
mod host;
mod hub_keys;
#[cfg(test)]
mod leader_tests;
mod metrics;
mod object;
mod organization;
mod plan;
#[cfg(test)]
mod scripted;
mod settings;

use std::sync::Arc;

use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use tokio_util::sync::CancellationToken;

pub use error::{Class, Error};
pub use settings::{Images, Settings, Store};

use context::Context;
use farplane_control::leader::Election;

const LEASE: &str = "farplane-controllers";

/// Runs every controller, once the lease is ours, until `shutdown`.
///
/// # Errors
/// When the port of metrics cannot be opened, the lease is lost or a controller ends. The
/// process should end then: its next start begins from what the API says.
pub async fn run(
    client: Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let address = settings.metrics_listen;
    let listener = tokio::net::TcpListener::bind(address)
        .await
        .map_err(|source| Error::Listen { address, source })?;
    let leases = Api::<Lease>::namespaced(client.clone(), &settings.namespace);
    let election = Election::new(leases, LEASE, &settings.identity);
    let context = Arc::new(Context::new(client, settings));
    let router = context.metrics.clone().router();
    let port = tokio::spawn(async move { axum::serve(listener, router).await });
    let work = async {
        tokio::select! {
            error = work(context) => Err(error),
            () = shutdown.cancelled() => Ok(()),
        }
    };
    let outcome = election.lead(&shutdown, Box::pin(work)).await;
    port.abort();
    outcome
}

/// Ends only when one of the controllers does.
async fn work(context: Arc<Context>) -> Error {
    tokio::select! {
        error = hub_keys::run(context.clone()) => error,
        error = organization::run(context.clone()) => error,
        error = endpoint::run(context.clone()) => error,
        error = plan::run(context.clone()) => error,
        error = host::run(context.clone()) => error,
        error = cluster::run(context) => error,
    }
}
