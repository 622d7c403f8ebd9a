//! Makes a [`HostPlanSpec`] true on this machine, keeps it true, and undoes it.
//!
//! ```text
//!   want(Plan) ──▶ recorded ──▶ applied in order ──▶ kept true, verified now and then
//!                     │  want(Nothing), want(Removed), or a plan of another plane
//!                     ▼
//!                 undoing: processes, strays, clean-up, files, artifacts ──▶ Clean
//! ```
//!
//! One task owns the machine (`engine`). What it does is decided without IO in
//! `decide`; what it must not forget is in one file (`record`), written before the
//! first effect of a plan, so that a kill at any moment loses nothing: the next start
//! goes on, or goes on undoing, without hearing the hub. Processes of the plan are not
//! bound to the agent's life; they are adopted by the next one.
//!
//! Promises: a unit's effect is idempotent; a unit that left the plan is undone; nothing
//! outside of the paths that a plan names is removed, and a mount never is emptied in
//! place of being unmounted.

mod archive;
mod artifact;
mod cleanup;
mod command;
mod complaint;
mod decide;
mod engine;
mod files;
mod guard;
mod image;
mod kernel;
mod outside;
mod pass;
mod process;
mod record;
mod removal;
mod strays;
mod undo;

#[cfg(test)]
mod tests;

pub use self::outside::Outside;

use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;

use farplane_types::{HostPlanSpec, UnitStatus};
use futures::future::BoxFuture;
use tokio::io::AsyncRead;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// What the hub wants of this host.
#[derive(Clone, Debug)]
pub enum Wanted {
    /// This plan.
    Plan {
        /// Generation of the `HostPlan` object, for reports.
        generation: i64,
        /// The plan.
        spec: Arc<HostPlanSpec>,
    },
    /// No plan: whatever an earlier one did is undone.
    Nothing,
    /// The host was removed: as [`Wanted::Nothing`]; the caller then forgets the identity.
    Removed,
}

/// How far a plan is.
#[derive(Clone, Debug, PartialEq)]
pub struct Report {
    /// Generation spoken of.
    pub generation: i64,
    /// Every unit is true.
    pub applied: bool,
    /// One per unit, in the plan's order.
    pub units: Vec<UnitStatus>,
}

/// What is known of the machine.
#[derive(Clone, Debug, PartialEq)]
pub enum State {
    /// The hub has not spoken and there is no plan on disk.
    Unknown,
    /// A plan is applied, or is being undone.
    Report(Report),
    /// Nothing of any plan is left.
    Clean,
}

/// Where artifacts come from.
pub trait ArtifactSource: Send + Sync + 'static {
    /// Bytes of the archive from `offset` on. An end before the archive's end is an
    /// interruption; the caller asks again from where it ended.
    fn fetch(
        &self,
        sha256: &str,
        offset: u64,
    ) -> BoxFuture<'_, io::Result<Pin<Box<dyn AsyncRead + Send>>>>;
}

/// Why an engine could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A directory of the agent could not be made.
    #[error("failed to make {path}, check that its file system is writable")]
    MakeDirectory {
        /// The directory.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Another agent works with the same directory.
    #[error("another agent uses {path}, stop it first")]
    Locked {
        /// The lock file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The recorded plan could not be read.
    #[error("failed to read the recorded plan {path}")]
    ReadRecord {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The recorded plan is not what an agent wrote.
    #[error("the recorded plan {path} is damaged, restore it from a backup or remove it")]
    ParseRecord {
        /// The file.
        path: PathBuf,
        /// Why.
        source: serde_json::Error,
    },
}

/// Owner of everything that plans do on this machine.
///
/// Dropped without [`Engine::stop`] it ends at once, as if the agent had been killed.
#[derive(Debug)]
pub struct Engine {
    wanted: watch::Sender<Option<Wanted>>,
    state: watch::Receiver<State>,
    plan: watch::Receiver<Option<Arc<HostPlanSpec>>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Engine {
    /// Loads the plan on disk (`<state_dir>/agent/plan.json`) and goes on with it at once,
    /// before the hub is heard. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// When the state directory cannot be used, or its recorded plan cannot be read.
    pub fn start(state_dir: &Path, source: Arc<dyn ArtifactSource>) -> Result<Self, Error> {
        Self::start_behind(None, state_dir, source)
    }

    /// As [`Engine::start`], where the way outside leads through a proxy.
    ///
    /// # Errors
    /// As [`Engine::start`].
    pub fn start_behind(
        outside: Option<Outside>,
        state_dir: &Path,
        source: Arc<dyn ArtifactSource>,
    ) -> Result<Self, Error> {
        let (wanted, hear) = watch::channel(None);
        let (tell, state) = watch::channel(State::Unknown);
        let (in_force, plan) = watch::channel(None);
        let stop = CancellationToken::new();
        let channels = (hear, tell, in_force);
        let owner = engine::open(state_dir, source, outside, channels, stop.clone())?;
        let task = tokio::spawn(owner.run());
        Ok(Self {
            wanted,
            state,
            plan,
            stop,
            task,
        })
    }

    /// Says what the hub wants. The last word counts; repeating one changes nothing.
    pub fn want(&self, wanted: Wanted) {
        self.wanted.send_replace(Some(wanted));
    }

    /// What is known of the machine.
    pub fn state(&self) -> watch::Receiver<State> {
        self.state.clone()
    }

    /// The plan in force; none when there is none or it is being undone.
    pub fn plan(&self) -> watch::Receiver<Option<Arc<HostPlanSpec>>> {
        self.plan.clone()
    }

    /// The agent ends: every process of the plan keeps running, to be adopted later.
    pub async fn stop(mut self) {
        self.stop.cancel();
        let _ = (&mut self.task).await;
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// A place at which a test may end the process, to see that nothing is lost.
#[cfg(not(test))]
fn boundary() {}
#[cfg(test)]
use tests::kill::boundary;
