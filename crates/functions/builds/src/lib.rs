//! Builds packages: a builder per environment, and a build per source.
//!
//! Two controllers. [`environments`] keeps, per Environment with a builder image, a Deployment
//! and a Service of the builder ([`objects`]). [`packages`] looks at each Package: [`decide`]
//! says (pure) whether there is something to settle or to build; a build ([`build`]) asks the
//! fetcher of the builder's Pod for the source, the builder for a package and the fetcher to
//! upload it; [`status`] writes what came of it.
//!
//! States of a package, in `status.buildstatus`:
//! ```text
//! (new) -> none                       nothing to build
//!       -> pending -> running -> succeeded
//!            ^           |-----> failed      the log says why
//!            |-----------|  the builder went away: tried again, a few times
//! ```
//! A status is of the content that it was made from (`status.contentHash`): whatever changes
//! the source, its command or its environment's builder begins anew, and stops a build that
//! runs. `running` without a process of ours is what an ended one left: it is built again.
//!
//! Promises: a package is built once at a time; a log is always there; a build that never ends
//! is stopped; nothing of another namespace is used. Functions follow by what the executor
//! reads of the package.

pub mod build;
pub mod content;
pub mod decide;
mod environments;
pub mod error;
pub mod objects;
mod packages;
pub mod place;
mod sidecar;
mod status;

#[cfg(test)]
mod real_api_tests;
#[cfg(test)]
mod testing;

use std::time::Duration;

use futures::future::BoxFuture;
use kube::Client;
use tokio_util::sync::CancellationToken;

pub use error::Error;

/// What the build manager is told.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The master secret.
    pub secret: Vec<u8>,
    /// Image of our program, for fetchers and builders.
    pub image: String,
    /// `Always`, `IfNotPresent` or `Never`, for that image.
    pub pull_policy: String,
    /// Address of the storage service, `http://...`.
    pub storage_url: String,
    /// How long a build command may run.
    pub build_deadline: Duration,
    /// Builds at once, of all environments.
    pub concurrency: u16,
}

impl Settings {
    /// Deadline and concurrency as they usually are.
    pub fn new(secret: Vec<u8>, image: String, pull_policy: String, storage_url: String) -> Self {
        Self {
            secret,
            image,
            pull_policy,
            storage_url,
            build_deadline: Duration::from_secs(15 * 60),
            concurrency: 8,
        }
    }
}

/// Keeps builders and builds packages until the shutdown. One process at a time: the caller
/// leads. Builds that run at the shutdown are begun anew by the next one.
///
/// # Errors
/// Never so far; failures of the API are waited out.
pub fn run(
    client: Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    // Boxed here, or all of it would be compiled once more, as a part of the program.
    Box::pin(serve_until(client, settings, shutdown))
}

async fn serve_until(
    client: Client,
    settings: Settings,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let pods = place::Pods::watch(client.clone(), &shutdown);
    let place = pods.place();
    run_at(client, settings, place, Some(pods), shutdown).await
}

/// [`run`] with builders that are found in another way.
pub(crate) async fn run_at(
    client: Client,
    settings: Settings,
    place: place::Place,
    pods: Option<place::Pods>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    tokio::join!(
        environments::run(client.clone(), settings.clone(), shutdown.clone()),
        packages::run(client, settings, place, pods, shutdown),
    );
    Ok(())
}
