//! `farplane-agent leave`: undoes everything on this machine, without the hub.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::time::timeout;

use crate::config::Config;
use crate::files;
use crate::identity::{Identity, IdentityError};
use crate::listen::{self, ListenError};
use crate::service::{self, ServiceError};
use crate::state::{Lock, StateError};
use crate::units::{self, ArtifactSource, Engine, State, Wanted};

/// Where plans have their sockets and other state of what runs.
const RUNTIME_DIR: &str = "/run/farplane";
/// Longest time for undoing a plan.
const UNDO_DEADLINE: Duration = Duration::from_secs(300);

/// Why something is left.
#[derive(Debug, thiserror::Error)]
pub enum LeaveError {
    /// The service.
    #[error(transparent)]
    Service(#[from] ServiceError),
    /// The state directory.
    #[error(transparent)]
    State(#[from] StateError),
    /// The units.
    #[error(transparent)]
    Units(#[from] units::Error),
    /// The plan is not undone in time.
    #[error("the plan is not undone after {} s: {state}; run this again", UNDO_DEADLINE.as_secs())]
    NotClean {
        /// How far it is.
        state: String,
    },
    /// The addresses.
    #[error(transparent)]
    Addresses(#[from] ListenError),
    /// The identity.
    #[error(transparent)]
    Identity(#[from] IdentityError),
}

/// Nothing is fetched while undoing.
struct Nowhere;

impl ArtifactSource for Nowhere {
    fn fetch(
        &self,
        _sha256: &str,
        _offset: u64,
    ) -> BoxFuture<'_, io::Result<Pin<Box<dyn AsyncRead + Send>>>> {
        Box::pin(async { Err(io::ErrorKind::NotConnected.into()) })
    }
}

/// Stops the agent, undoes its plan, forgets the identity, removes the service. Returns the
/// identity that was forgotten, if there was one.
///
/// # Errors
/// When something is left; running it again goes on.
pub async fn leave(config: &Config, config_path: &Path) -> Result<Option<String>, LeaveError> {
    service::stop(config_path)?;
    let agent_dir = config.agent_dir();
    let _lock = Lock::take(&agent_dir)?;
    // One that is damaged is to be forgotten all the same.
    let identity = Identity::load(&agent_dir).ok().flatten();
    undo(&config.state_dir).await?;
    listen::remove_addresses(&agent_dir, &BTreeSet::new()).await?;
    Identity::forget(&agent_dir)?;
    service::remove(config_path)?;
    erase(config, config_path);
    Ok(identity.map(|it| it.identity))
}

/// Removes the service that `join` installed, and with it every file of the agent's own.
/// False, and nothing done, when there is none: then somebody else starts the agent.
///
/// # Errors
/// When the service stays.
pub(crate) fn erase_service(config: &Config, config_path: &Path) -> Result<bool, ServiceError> {
    if !service::is_for(config_path) {
        return Ok(false);
    }
    service::remove(config_path)?;
    erase(config, config_path);
    Ok(true)
}

/// Removes configuration and state. What cannot be removed is harmless without an identity,
/// such as a configuration on a read-only mount.
fn erase(config: &Config, config_path: &Path) {
    let state_dir = &config.state_dir;
    let outcomes = [
        (config_path.to_owned(), files::remove(config_path)),
        (config.agent_dir(), remove_tree(&config.agent_dir())),
    ];
    for (path, outcome) in outcomes {
        if let Err(error) = outcome {
            tracing::warn!(path = %path.display(), %error, "file stays");
        }
    }
    let own = [state_dir.join("artifacts"), state_dir.join("logs")];
    let shared = [state_dir.as_path(), Path::new(RUNTIME_DIR)];
    let config_dir = config_path.parent().into_iter();
    let own = own.iter().map(PathBuf::as_path);
    for directory in own.chain(shared).chain(config_dir) {
        // One that somebody keeps something in stays.
        _ = std::fs::remove_dir(directory);
    }
}

fn remove_tree(path: &Path) -> io::Result<()> {
    match std::fs::remove_dir_all(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

async fn undo(state_dir: &Path) -> Result<(), LeaveError> {
    let engine = Engine::start(state_dir, Arc::new(Nowhere))?;
    engine.want(Wanted::Removed);
    let mut states = engine.state();
    let clean = states.wait_for(|state| *state == State::Clean);
    let done = matches!(timeout(UNDO_DEADLINE, clean).await, Ok(Ok(_)));
    let state = format!("{:?}", *engine.state().borrow());
    engine.stop().await;
    if done {
        Ok(())
    } else {
        Err(LeaveError::NotClean { state })
    }
}
