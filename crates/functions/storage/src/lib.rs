//! Archives of packages: kept in a directory or at S3, each tenant's apart.
//!
//! Flow of an upload: its signature's time is looked at ([`principal`]) -> the form is streamed
//! to a spool file while it is hashed ([`receive`]) -> the signature over all of it is checked
//! -> the file becomes an archive in one step ([`store`]). Nothing else makes one.
//!
//! Promises: an archive is there whole or not at all; a tenant's key reaches its own archives
//! and the unowned ones for reading, and learns nothing of others; no name from a request is
//! ever used as a path ([`id`]); an archive that no package names is removed ([`prune`]) when
//! it was seen unused twice and is older than the grace period.

pub mod error;
pub mod id;
pub mod packages;
pub mod principal;
pub mod prune;
pub mod receive;
mod s3;
mod serve;
pub mod settings;
pub mod store;

use std::sync::Arc;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use error::Error;
pub use prune::LiveUrls;
pub use settings::{Backend, S3, Settings};

/// Serves until the shutdown. `live` tells which archives packages name; without it none is
/// removed.
///
/// # Errors
/// When the store cannot be opened or the address cannot be listened on.
pub fn run(
    settings: Settings,
    live: Option<LiveUrls>,
    shutdown: CancellationToken,
) -> BoxFuture<'static, Result<(), Error>> {
    // Boxed here, or all of it would be compiled once more, as a part of the program.
    Box::pin(serve_until(settings, live, shutdown))
}

async fn serve_until(
    settings: Settings,
    live: Option<LiveUrls>,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let listener = TcpListener::bind(settings.listen)
        .await
        .map_err(|source| Error::Listen {
            address: settings.listen,
            source,
        })?;
    serve(settings, live, listener, shutdown).await
}

/// [`run`] on a socket that is open already.
///
/// # Errors
/// When the store cannot be opened.
pub async fn serve(
    settings: Settings,
    live: Option<LiveUrls>,
    listener: TcpListener,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let store = Arc::new(store::Store::open(&settings.backend).await?);
    let pruning = live.map(|live| {
        let pruner = prune::Pruner::new(Arc::clone(&store), live, settings.prune);
        tokio::spawn(pruner.run(shutdown.clone()))
    });
    serve::serve(settings, store, listener, shutdown).await;
    if let Some(pruning) = pruning {
        pruning.abort();
    }
    Ok(())
}
