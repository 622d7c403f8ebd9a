//! Runs an environment's build command on a source beside it.
//!
//! Flow of `POST /`: names and command are checked ([`command`]) -> the command runs with
//! `SRC_PKG` and `DEPLOY_PKG` ([`process`]), what it says is kept ([`log`]) and written to our
//! own output too -> the name of what it made is answered, or the cause.
//!
//! Promises: no shell is involved; a build ends at its deadline, or when the caller is gone,
//! with all its processes; a log of any length takes bounded memory and its end is kept.

pub mod command;
pub mod log;
mod process;
mod serve;
mod settings;

use std::io;

use futures::future::BoxFuture;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

pub use settings::Settings;

/// Serves until the shutdown. The build command may not read our environment.
///
/// # Errors
/// When the address cannot be listened on.
pub fn run(settings: Settings, shutdown: CancellationToken) -> BoxFuture<'static, io::Result<()>> {
    // Boxed here, or all of it would be compiled once more, as a part of the program.
    Box::pin(serve_until(settings, shutdown))
}

async fn serve_until(settings: Settings, shutdown: CancellationToken) -> io::Result<()> {
    crate::share_files();
    // The key is in the environment, and builds run as our own user.
    let behaviour = rustix::process::DumpableBehavior::NotDumpable;
    rustix::process::set_dumpable_behavior(behaviour)?;
    let listener = TcpListener::bind(settings.listen).await?;
    serve(settings, listener, shutdown).await;
    Ok(())
}

/// [`run`] on a socket that is open already.
pub async fn serve(settings: Settings, listener: TcpListener, shutdown: CancellationToken) {
    serve::serve(settings, listener, shutdown).await;
}
