//! The one task that owns the machine: goes from what is recorded to what is wanted.
//!
//! Channels: the caller's last word comes in, states and the plan in force go out. Two
//! kinds of work, never both: applying a plan ([`super::pass`]) and undoing one
//! ([`super::undo`]). An undo that began is finished before anything else begins.

use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use farplane_types::{HostPlanSpec, UnitState, UnitStatus};
use nix::fcntl::Flock;
use rand::Rng as _;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::artifact::Artifacts;
use super::command::words;
use super::decide::{self, Goal};
use super::outside::Outside;
use super::process::Processes;
use super::record::{Record, Store};
use super::{ArtifactSource, Error, Report, State, Wanted, files, guard};

/// First and longest pause before something that failed is tried again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));

/// The task's state.
pub(super) struct Owner {
    pub(super) state_dir: PathBuf,
    pub(super) store: Store,
    pub(super) record: Record,
    pub(super) source: Arc<dyn ArtifactSource>,
    pub(super) artifacts: Arc<Artifacts>,
    pub(super) processes: Processes,
    pub(super) wanted: watch::Receiver<Option<Wanted>>,
    pub(super) state: watch::Sender<State>,
    pub(super) plan: watch::Sender<Option<Arc<HostPlanSpec>>>,
    pub(super) stop: CancellationToken,
    /// Nothing of any plan is left, seen by this task.
    pub(super) clean: bool,
    /// Held as long as this agent may change the machine.
    pub(super) _lock: Flock<std::fs::File>,
}

impl Owner {
    pub(super) async fn run(mut self) {
        while !self.stop.is_cancelled() {
            let wanted = self.wanted.borrow_and_update().clone();
            match decide::goal(&self.record, wanted.as_ref(), self.clean) {
                Goal::Rest(state) => {
                    self.publish(state);
                    tokio::select! {
                        changed = self.wanted.changed() => {
                            if changed.is_err() {
                                break;
                            }
                        }
                        () = self.stop.cancelled() => {}
                    }
                }
                Goal::Undo => self.undo().await,
                Goal::Apply { generation, plan } => self.apply(generation, plan).await,
            }
        }
        self.processes.detach();
    }

    /// Records a plan before anything of it is done.
    pub(super) async fn accept(
        &mut self,
        generation: i64,
        plan: &Arc<HostPlanSpec>,
    ) -> io::Result<()> {
        self.clean = false;
        let same = self.record.plan.as_ref() == Some(plan);
        if same && self.record.generation == generation {
            return Ok(());
        }
        let mut record = self.record.clone();
        record.generation = generation;
        if !same {
            record.touched =
                decide::remember(&record.touched, &guard::accepted(plan, &self.state_dir));
            record.plan = Some(plan.clone());
        }
        self.save(record).await
    }

    /// Makes `record` the record, on disk first.
    pub(super) async fn save(&mut self, record: Record) -> io::Result<()> {
        let store = self.store.clone();
        let saved = tokio::task::spawn_blocking(move || store.save(&record).map(|()| record)).await;
        self.record = saved.map_err(io::Error::other)??;
        super::boundary();
        Ok(())
    }

    pub(super) fn publish(&self, state: State) {
        self.state.send_if_modified(|known| {
            let changed = *known != state;
            *known = state;
            changed
        });
    }

    /// Says of every unit that the plan could not even be recorded.
    pub(super) fn publish_unrecorded(
        &self,
        generation: i64,
        plan: &HostPlanSpec,
        error: &io::Error,
    ) {
        let message = format!(
            "failed to record the plan{}: {}",
            files::hint(error),
            words(error)
        );
        tracing::error!(%message);
        let units = plan.units.iter().map(|unit| UnitStatus {
            unit: unit.key(),
            state: UnitState::Failed,
            message: message.clone(),
        });
        let units = units.collect();
        self.publish(State::Report(Report {
            generation,
            applied: false,
            units,
        }));
    }

    /// Waits before another try, unless the caller has something new to say.
    pub(super) async fn pause(&mut self, attempts: u32) {
        tokio::select! {
            () = tokio::time::sleep(pause(attempts)) => {}
            _ = self.wanted.changed() => self.wanted.mark_changed(),
            () = self.stop.cancelled() => {}
        }
    }
}

/// The task's ends: the caller's last word, states, the plan in force.
pub(super) type Channels = (
    watch::Receiver<Option<Wanted>>,
    watch::Sender<State>,
    watch::Sender<Option<Arc<HostPlanSpec>>>,
);

/// Loads what is recorded and makes the task's state.
pub(super) fn open(
    state_dir: &Path,
    source: Arc<dyn ArtifactSource>,
    outside: Option<Outside>,
    channels: Channels,
    stop: CancellationToken,
) -> Result<Owner, Error> {
    let (wanted, state, plan) = channels;
    let agent_dir = state_dir.join("agent");
    for (path, mode) in [(state_dir, 0o755), (&agent_dir, 0o700)] {
        let made = DirBuilder::new().recursive(true).mode(mode).create(path);
        made.map_err(|source| Error::MakeDirectory {
            path: path.to_owned(),
            source,
        })?;
    }
    let lock = lock(&agent_dir.join("engine.lock"))?;
    let store = Store::new(&agent_dir);
    let record = store.load()?;
    Ok(Owner {
        state_dir: state_dir.to_owned(),
        processes: Processes::new(state_dir, outside),
        artifacts: Arc::new(Artifacts::new(state_dir)),
        store,
        record,
        source,
        wanted,
        state,
        plan,
        stop,
        clean: false,
        _lock: lock,
    })
}

/// Two agents with one directory would undo each other's work.
fn lock(path: &Path) -> Result<Flock<std::fs::File>, Error> {
    let failed = |source| Error::Locked {
        path: path.to_owned(),
        source,
    };
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create(true).truncate(false);
    let file = options.open(path).map_err(failed)?;
    crate::lock::take(file).map_err(failed)
}

/// Pause after this many failures in a row; spread, so that hosts do not move in step.
pub(super) fn pause(attempts: u32) -> Duration {
    let (first, longest) = PAUSES;
    let full = first.saturating_mul(1 << attempts.min(10)).min(longest);
    full.mul_f64(rand::rng().random_range(0.5..=1.0))
}
