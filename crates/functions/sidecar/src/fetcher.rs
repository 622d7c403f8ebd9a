//! Brings code, Secrets and ConfigMaps to a runtime beside it, and tells the runtime to load.
//!
//! Flow of `/specialize`: claim the Pod -> connect to the runtime, while the archive is brought
//! ([`archive_source`]) and placed ([`place`]), then [`references`] -> the runtime loads
//! ([`load`]) -> its answer is ours. In Pods that build: `/fetch` brings a source, `/upload`
//! takes a package to storage ([`upload`]).
//! A Pod that ends is stopped when it is [`quiet`].
//!
//! Promises: a Pod is specialised once, whatever came of it, and says so after a restart of
//! this process too; a specialisation goes on when the caller is gone; the function's own error
//! is answered word for word; only this namespace's Secrets, ConfigMaps and packages are read.

mod api;
mod archive_source;
mod claim;
mod download;
mod error;
mod load;
mod place;
mod quiet;
mod references;
mod serve;
mod settings;
mod upload;

use std::io;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use error::Error;
pub(crate) use place::remove;
pub use settings::{Settings, SettingsError};

/// Serves until the shutdown. Made for a runtime of one thread.
///
/// # Errors
/// When the address cannot be listened on.
pub fn run(settings: Settings, shutdown: CancellationToken) -> BoxFuture<'static, io::Result<()>> {
    // Boxed here, or all of it would be compiled once more, as a part of the program.
    Box::pin(serve_until(settings, shutdown))
}

async fn serve_until(settings: Settings, shutdown: CancellationToken) -> io::Result<()> {
    crate::share_files();
    let listener = TcpListener::bind(settings.listen).await?;
    serve(settings, listener, shutdown).await;
    Ok(())
}

/// [`run`] on a socket that is open already.
pub async fn serve(settings: Settings, listener: TcpListener, shutdown: CancellationToken) {
    serve::serve(settings, None, listener, shutdown).await;
}

/// [`serve()`] with a client of the API server other than the Pod's own.
pub async fn serve_with(
    settings: Settings,
    client: kube::Client,
    listener: TcpListener,
    shutdown: CancellationToken,
) {
    serve::serve(settings, Some(client), listener, shutdown).await;
}
