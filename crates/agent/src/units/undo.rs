//! Undoes everything that plans of the recorded plane did.
//!
//! Order: processes in reverse, whatever else runs from artifacts (containers among it),
//! clean-up units, files and directories in reverse, artifacts, the record. A phase with a
//! failure is tried again before the next begins. Every step may be repeated, so a kill
//! only repeats some.

use std::path::Path;

use farplane_types::{Unit, UnitState, UnitStatus};

use super::command::words;
use super::decide::{self, Digests, Step};
use super::engine::Owner;
use super::record::Record;
use super::{Report, State, Wanted, cleanup, files, removal, strays};

/// States of the units being undone.
#[derive(Debug, Default)]
struct Progress {
    units: Vec<UnitStatus>,
    failed: bool,
}

impl Progress {
    fn of(touched: &[Unit]) -> Self {
        let units = touched.iter().map(|unit| UnitStatus {
            unit: unit.key(),
            state: UnitState::Applying,
            message: "is being undone".to_owned(),
        });
        Self {
            units: units.collect(),
            failed: false,
        }
    }

    fn set(&mut self, key: &str, state: UnitState, message: String) {
        self.failed |= state == UnitState::Failed;
        match self.units.iter_mut().find(|unit| unit.unit == key) {
            Some(unit) => (unit.state, unit.message) = (state, message),
            None => self.units.push(UnitStatus {
                unit: key.to_owned(),
                state,
                message,
            }),
        }
    }
}

impl Owner {
    /// Undoes what is recorded; returns when nothing is left or the agent ends.
    pub(super) async fn undo(&mut self) {
        let stop = self.stop.clone();
        tokio::select! {
            // Dropped halfway it is as good as killed.
            () = self.undo_all() => {}
            () = stop.cancelled() => {}
        }
    }

    async fn undo_all(&mut self) {
        self.plan.send_if_modified(|known| known.take().is_some());
        let mut attempts = 0;
        loop {
            let progress = self.try_undo().await;
            if !progress.failed {
                break;
            }
            self.publish_undo(&progress);
            tokio::time::sleep(super::engine::pause(attempts)).await;
            attempts = attempts.saturating_add(1);
        }
        self.clean = true;
    }

    async fn try_undo(&mut self) -> Progress {
        let mut progress = Progress::of(&self.record.touched);
        if !self.record.undoing {
            let record = Record {
                undoing: true,
                ..self.record.clone()
            };
            if let Err(error) = self.save(record).await {
                let message = format!("failed to record that it is undone: {}", words(&error));
                progress.set("record", UnitState::Failed, message);
                return progress;
            }
        }
        self.publish_undo(&progress);
        let steps = decide::steps(&self.record.touched, &Digests::new(), None);
        for phase in steps.chunk_by(|one, other| phase(one) == phase(other)) {
            for step in phase {
                self.undo_step(step, &mut progress).await;
                super::boundary();
                self.publish_undo(&progress);
            }
            if progress.failed {
                return progress;
            }
        }
        let store = self.store.clone();
        match tokio::task::spawn_blocking(move || store.remove()).await {
            Ok(Ok(())) => self.record = Record::default(),
            Ok(Err(error)) => progress.set("record", UnitState::Failed, words(&error)),
            Err(error) => progress.set("record", UnitState::Failed, words(&error)),
        }
        progress
    }

    async fn undo_step(&mut self, step: &Step, progress: &mut Progress) {
        match step {
            Step::Stop(unit) | Step::Remove(unit) => match self.undo_unit(unit).await {
                Ok(()) => progress.set(&unit.key(), UnitState::Ready, "undone".to_owned()),
                Err(message) => progress.set(&unit.key(), UnitState::Failed, message),
            },
            Step::EndStrays => {
                let ended = match self.processes.end_all().await {
                    Ok(()) => strays::end(self.artifacts.directory())
                        .await
                        .map_err(|error| words(&error)),
                    other => other,
                };
                if let Err(message) = ended {
                    progress.set("processes", UnitState::Failed, message);
                }
            }
            Step::Clean(unit) => {
                let outcome = cleanup::clean(unit, &self.state_dir).await;
                for remark in &outcome.remarks {
                    tracing::warn!(unit = unit.key(), remark, "a clean-up command failed");
                }
                let state = if outcome.left.is_empty() {
                    UnitState::Ready
                } else {
                    UnitState::Failed
                };
                let all = [outcome.left, outcome.remarks].concat();
                progress.set(&unit.key(), state, all.join("; "));
            }
            Step::Sweep => {
                self.processes.forget();
                if !self.sweep(None).await {
                    let message = "artifacts cannot be removed, see the agent's log".to_owned();
                    progress.set("artifacts", UnitState::Failed, message);
                }
            }
            // Not part of an undo.
            Step::Apply(_) => {}
        }
    }

    /// Undoes one unit.
    pub(super) async fn undo_unit(&mut self, unit: &Unit) -> Result<(), String> {
        match unit {
            Unit::Process {
                name, remove_after, ..
            } => {
                self.processes.end(name).await?;
                for path in remove_after {
                    self.remove(path).await?;
                }
                self.processes.forget_logs(name);
                Ok(())
            }
            Unit::File { path, .. } | Unit::Link { path, .. } => {
                files::remove(Path::new(path)).map_err(|error| words(&error))
            }
            Unit::Directory { path, .. } => self.remove(path).await,
            _ => Ok(()),
        }
    }

    async fn remove(&self, path: &str) -> Result<(), String> {
        let (path, state_dir) = (path.to_owned(), self.state_dir.clone());
        let removed =
            tokio::task::spawn_blocking(move || removal::remove(Path::new(&path), &state_dir));
        match removed.await {
            Ok(result) => result.map_err(|error| words(&error)),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Removes artifacts that neither the plan names nor a process uses. True when it
    /// succeeded.
    pub(super) async fn sweep(&self, plan: Option<&farplane_types::HostPlanSpec>) -> bool {
        let units = plan.map(|plan| plan.units.as_slice()).unwrap_or_default();
        let mut keep: std::collections::BTreeSet<_> = units
            .iter()
            .filter_map(|unit| match unit {
                Unit::Artifact { sha256, .. } => Some(sha256.clone()),
                _ => None,
            })
            .collect();
        let artifacts = self.artifacts.clone();
        let swept = tokio::task::spawn_blocking(move || {
            // A shim calls the runtime it was started with for as long as its Pod lives.
            keep.extend(strays::artifacts_in_use(artifacts.directory()));
            artifacts.sweep(&keep)
        });
        match swept.await {
            Ok(Ok(())) => true,
            Ok(Err(error)) => {
                tracing::warn!(error = words(&error), "failed to remove artifacts");
                false
            }
            Err(error) => {
                tracing::warn!(%error, "failed to remove artifacts");
                false
            }
        }
    }

    /// The undone units; a plan that waits for the end of this shows as waiting.
    fn publish_undo(&self, progress: &Progress) {
        let wanted = self.wanted.borrow().clone();
        let report = match wanted {
            Some(Wanted::Plan { generation, spec }) => {
                let failed = progress
                    .units
                    .iter()
                    .find(|unit| unit.state == UnitState::Failed);
                let message = match failed {
                    Some(unit) => format!(
                        "an earlier plan cannot be undone: {}: {}",
                        unit.unit, unit.message
                    ),
                    None => "waits for an earlier plan to be undone".to_owned(),
                };
                let units = spec.units.iter().map(|unit| UnitStatus {
                    unit: unit.key(),
                    state: UnitState::Waiting,
                    message: message.clone(),
                });
                Report {
                    generation,
                    applied: false,
                    units: units.collect(),
                }
            }
            _ => Report {
                generation: self.record.generation,
                applied: false,
                units: progress.units.clone(),
            },
        };
        self.publish(State::Report(report));
    }
}

/// Steps of one phase do not need each other.
fn phase(step: &Step) -> u8 {
    match step {
        Step::Stop(_) => 0,
        Step::EndStrays => 1,
        Step::Clean(_) => 2,
        Step::Remove(_) | Step::Apply(_) => 3,
        Step::Sweep => 4,
    }
}
