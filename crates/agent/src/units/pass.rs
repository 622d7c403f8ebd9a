//! Applies one plan and keeps it true until another is wanted.
//!
//! ```text
//!   pending ──▶ running ──▶ done        (again pending to be verified)
//!                  │  ▲
//!                  ▼  │ pause
//!                 failed
//! ```
//!
//! Work runs in tasks that only report back; every change of the record and every start
//! of a process happens here. A process goes through two tasks: one waits for its paths,
//! one ends what ran before it.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use farplane_types::{HostPlanSpec, Unit, UnitState, UnitStatus};
use tokio::task::{Id, JoinSet};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::command::words;
use super::decide::{self, Phase, Step};
use super::engine::{Owner, pause};
use super::image::Image;
use super::{Report, State, Wanted, artifact, files, guard, image, kernel, process};

/// Time after which what is true is looked at again.
const VERIFY: Duration = Duration::from_secs(600);
/// Looks at processes in case a notice of theirs was missed.
const LOOK: Duration = Duration::from_secs(5);

/// What a task reports.
#[derive(Debug)]
enum Done {
    /// The unit is true, with a remark, or why it is not.
    Unit(Result<String, String>),
    /// A process may start.
    Gate,
    /// What this agent ran in the place of a process has ended.
    Ended,
    /// The pass ends.
    Interrupted,
}

/// One unit of the plan.
#[derive(Debug)]
struct Slot {
    key: String,
    digest: String,
    phase: Phase,
    state: UnitState,
    message: String,
    attempts: u32,
    retry_at: Option<Instant>,
}

/// One plan being applied.
#[derive(Debug)]
pub(super) struct Pass {
    generation: i64,
    plan: Arc<HostPlanSpec>,
    slots: Vec<Slot>,
    tasks: JoinSet<Done>,
    places: HashMap<Id, usize>,
    cancel: CancellationToken,
    verify_at: Instant,
    /// When to remove what the plan no longer has; none once that is done.
    tidy_at: Option<Instant>,
    tidy_attempts: u32,
}

impl Owner {
    /// Makes a plan true and keeps it so; returns when something else is wanted.
    pub(super) async fn apply(&mut self, generation: i64, plan: Arc<HostPlanSpec>) {
        let mut attempts = 0;
        while let Err(error) = self.accept(generation, &plan).await {
            self.publish_unrecorded(generation, &plan, &error);
            self.pause(attempts).await;
            attempts += 1;
            if self.stop.is_cancelled() || self.wanted.has_changed().unwrap_or(true) {
                return;
            }
        }
        self.plan.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&plan);
            *known = Some(plan.clone());
            changed
        });
        let mut pass = Pass::new(generation, plan, &self.state_dir);
        // A process that left the plan goes first: it must not meet what replaces it.
        self.stop_dropped(&pass.plan.clone()).await;
        while self.turn(&mut pass).await {}
        pass.end().await;
    }

    /// Begins what may begin, waits for one event and acts on it. False: the pass is over.
    async fn turn(&mut self, pass: &mut Pass) -> bool {
        pass.come_due();
        self.begin(pass);
        let report = self.report(pass);
        let applied = report.applied;
        self.publish(State::Report(report));
        if applied && pass.tidy_at.is_some_and(|at| at <= Instant::now()) {
            self.tidy(pass).await;
        }
        let due = pass.next_due(applied).min(Instant::now() + LOOK);
        tokio::select! {
            Some(joined) = pass.tasks.join_next_with_id() => self.joined(pass, joined),
            () = self.processes.changed() => {}
            () = tokio::time::sleep_until(due) => {}
            changed = self.wanted.changed() => return changed.is_ok() && self.still_wanted(pass).await,
            () = self.stop.cancelled() => return false,
        }
        true
    }

    /// Whether this plan is still what is wanted; a repetition makes it be verified.
    async fn still_wanted(&mut self, pass: &mut Pass) -> bool {
        let wanted = self.wanted.borrow_and_update().clone();
        match wanted {
            Some(Wanted::Plan { generation, spec }) if spec == pass.plan => {
                if self.accept(generation, &spec).await.is_ok() {
                    pass.generation = generation;
                }
                pass.verify();
                true
            }
            None => true,
            Some(_) => {
                self.wanted.mark_changed();
                false
            }
        }
    }

    /// Begins every unit that may begin.
    fn begin(&mut self, pass: &mut Pass) {
        for index in 0..pass.slots.len() {
            if pass.slots[index].phase != Phase::Pending {
                continue;
            }
            let phases: Vec<_> = pass.slots.iter().map(|slot| slot.phase).collect();
            if let Err(other) = decide::may_begin(&pass.plan, &phases, index) {
                pass.slots[index].wait(format!("waits for {other}"));
                continue;
            }
            let unit = pass.plan.units[index].clone();
            match unit {
                Unit::Cleanup { .. } => pass.slots[index].done(String::new()),
                Unit::Process { name, wait_for, .. } => {
                    if self.processes.runs(&name, &pass.slots[index].digest) {
                        pass.slots[index].done(String::new());
                        continue;
                    }
                    let cancel = pass.cancel.clone();
                    if !wait_for.is_empty() {
                        pass.slots[index].wait(format!("waits for {}", wait_for.join(", ")));
                    }
                    pass.spawn(index, async move {
                        if process::wait_for(&wait_for, &cancel).await {
                            Done::Gate
                        } else {
                            Done::Interrupted
                        }
                    });
                }
                unit => self.begin_plain(pass, index, unit),
            }
        }
    }

    fn begin_plain(&self, pass: &mut Pass, index: usize, unit: Unit) {
        let slot = &mut pass.slots[index];
        if slot.state == UnitState::Waiting {
            slot.state = UnitState::Applying;
            slot.message = match &unit {
                Unit::Image { socket, .. } => format!("imported once {socket} answers"),
                _ => String::new(),
            };
        }
        let cancel = pass.cancel.clone();
        let (artifacts, source) = (self.artifacts.clone(), self.source.clone());
        pass.spawn(index, async move {
            match unit {
                Unit::Artifact { sha256, size, .. } => {
                    match artifacts
                        .ensure(&sha256, size, source.as_ref(), &cancel)
                        .await
                    {
                        Err(artifact::Error::Interrupted) => Done::Interrupted,
                        other => Done::Unit(said(other)),
                    }
                }
                Unit::Image {
                    reference,
                    archive,
                    ctr,
                    socket,
                } => {
                    let image = Image {
                        reference,
                        archive,
                        ctr,
                        socket,
                    };
                    match image.ensure(&cancel).await {
                        Err(image::Error::Interrupted) => Done::Interrupted,
                        other => Done::Unit(said(other)),
                    }
                }
                Unit::KernelModule { name, optional } => {
                    Done::Unit(forgiving(optional, said(kernel::module(&name).await)))
                }
                unit => {
                    let made = tokio::task::spawn_blocking(move || make(&unit)).await;
                    Done::Unit(made.unwrap_or_else(|error| Err(error.to_string())))
                }
            }
        });
    }

    fn joined(&mut self, pass: &mut Pass, joined: Result<(Id, Done), tokio::task::JoinError>) {
        let (id, done) = match joined {
            Ok((id, done)) => (id, done),
            Err(error) => (
                error.id(),
                Done::Unit(Err(format!("the agent failed: {error}"))),
            ),
        };
        super::boundary();
        let Some(index) = pass.places.remove(&id) else {
            return;
        };
        match done {
            Done::Unit(Ok(remark)) => pass.slots[index].done(remark),
            Done::Unit(Err(message)) => pass.slots[index].failed(message),
            Done::Gate => {
                let Unit::Process { name, .. } = &pass.plan.units[index] else {
                    return;
                };
                let end = self.processes.end_replaced(name, &pass.slots[index].digest);
                pass.spawn(index, async move {
                    end.await;
                    Done::Ended
                });
            }
            Done::Ended => {
                self.processes
                    .start(&pass.plan.units[index], &pass.slots[index].digest);
                super::boundary();
                pass.slots[index].done(String::new());
            }
            Done::Interrupted => pass.slots[index].phase = Phase::Pending,
        }
    }

    fn report(&self, pass: &Pass) -> Report {
        let units = pass.plan.units.iter().zip(&pass.slots).map(|(unit, slot)| {
            let (state, message) = match unit {
                Unit::Process { name, .. } if slot.phase == Phase::Done => {
                    self.processes.state(name)
                }
                _ => (slot.state, slot.message.clone()),
            };
            UnitStatus {
                unit: slot.key.clone(),
                state,
                message,
            }
        });
        let units: Vec<_> = units.collect();
        let applied = units.iter().all(|unit| unit.state == UnitState::Ready);
        Report {
            generation: pass.generation,
            applied,
            units,
        }
    }

    /// Ends processes that the plan no longer has.
    async fn stop_dropped(&mut self, plan: &HostPlanSpec) {
        let steps = decide::steps(&self.record.touched, &decide::Digests::new(), Some(plan));
        for step in steps {
            if let Step::Stop(unit) = step
                && let Err(message) = self.undo_unit(&unit).await
            {
                tracing::warn!(unit = unit.key(), message, "left the plan but does not go");
            }
        }
    }

    /// Removes what the plan no longer has, now that nothing uses it.
    async fn tidy(&mut self, pass: &mut Pass) {
        let mut failed = false;
        let plan = pass.plan.clone();
        let steps = decide::steps(&self.record.touched, &decide::Digests::new(), Some(&plan));
        for step in steps {
            let (Step::Stop(unit) | Step::Remove(unit)) = step else {
                continue;
            };
            if let Err(message) = self.undo_unit(&unit).await {
                failed = true;
                tracing::warn!(unit = unit.key(), message, "left the plan but does not go");
            }
        }
        if !failed {
            let mut record = self.record.clone();
            record.touched.retain(|unit| {
                plan.units.iter().any(|wanted| wanted.key() == unit.key())
                    || decide::outlives(unit, &plan)
            });
            if record != self.record && self.save(record).await.is_err() {
                failed = true;
            }
        }
        failed |= !self.sweep(Some(&plan)).await;
        pass.tidy_attempts = if failed { pass.tidy_attempts + 1 } else { 0 };
        pass.tidy_at = failed.then(|| Instant::now() + pause(pass.tidy_attempts));
    }
}

impl Pass {
    fn new(generation: i64, plan: Arc<HostPlanSpec>, state_dir: &Path) -> Self {
        let refusals = guard::refusals(&plan, state_dir);
        let units = plan.units.iter().zip(refusals);
        let slots = units.map(|(unit, refusal)| {
            let mut slot = Slot {
                key: unit.key(),
                digest: decide::digest(&plan, unit),
                phase: Phase::Pending,
                state: UnitState::Waiting,
                message: String::new(),
                attempts: 0,
                retry_at: None,
            };
            if let Some(reason) = refusal {
                // Trying again does not help; another plan does.
                slot.failed(format!("refused: {reason}"));
                slot.retry_at = None;
            }
            slot
        });
        let slots = slots.collect();
        let now = Instant::now();
        Self {
            generation,
            plan,
            slots,
            tasks: JoinSet::new(),
            places: HashMap::new(),
            cancel: CancellationToken::new(),
            verify_at: now + VERIFY,
            tidy_at: Some(now),
            tidy_attempts: 0,
        }
    }

    fn spawn(&mut self, index: usize, task: impl Future<Output = Done> + Send + 'static) {
        self.slots[index].phase = Phase::Running;
        let handle = self.tasks.spawn(task);
        self.places.insert(handle.id(), index);
    }

    /// Units are looked at again; they stay ready until found otherwise.
    fn verify(&mut self) {
        self.verify_at = Instant::now() + VERIFY;
        self.tidy_at = self.tidy_at.or(Some(self.verify_at));
        for (unit, slot) in self.plan.units.iter().zip(&mut self.slots) {
            let is_process = matches!(unit, Unit::Process { .. });
            if slot.phase == Phase::Done && !is_process {
                slot.phase = Phase::Pending;
            }
        }
    }

    fn come_due(&mut self) {
        let now = Instant::now();
        if self.verify_at <= now {
            self.verify();
            self.tidy_at = Some(now);
        }
        for slot in &mut self.slots {
            if slot.phase == Phase::Failed && slot.retry_at.is_some_and(|at| at <= now) {
                slot.phase = Phase::Pending;
                slot.retry_at = None;
            }
        }
    }

    fn next_due(&self, applied: bool) -> Instant {
        let retries = self.slots.iter().filter_map(|slot| slot.retry_at);
        let tidy = self.tidy_at.filter(|_| applied);
        retries.chain(tidy).fold(self.verify_at, Instant::min)
    }

    /// Lets what is under way come to an end: nothing may still write when another plan
    /// is begun.
    async fn end(mut self) {
        self.cancel.cancel();
        while self.tasks.join_next().await.is_some() {}
    }
}

impl Slot {
    fn done(&mut self, remark: String) {
        self.phase = Phase::Done;
        self.state = UnitState::Ready;
        self.message = remark;
        self.attempts = 0;
    }

    fn failed(&mut self, message: String) {
        tracing::warn!(unit = self.key, message, "a unit of the plan failed");
        self.phase = Phase::Failed;
        self.state = UnitState::Failed;
        self.message = message;
        self.retry_at = Some(Instant::now() + pause(self.attempts));
        self.attempts = self.attempts.saturating_add(1);
    }

    /// What is ready or failed stays so in reports until there is news.
    fn wait(&mut self, message: String) {
        if !matches!(self.state, UnitState::Ready | UnitState::Failed) {
            self.state = UnitState::Waiting;
            self.message = message;
        }
    }
}

/// Units that are made by a few quick system calls.
fn make(unit: &Unit) -> Result<String, String> {
    match unit {
        Unit::File {
            path,
            content,
            mode,
        } => said(files::file(Path::new(path), content.as_bytes(), *mode).map(drop)),
        Unit::Directory { path, mode } => said(files::directory(Path::new(path), *mode).map(drop)),
        Unit::Link { path, target } => {
            said(files::link(Path::new(path), Path::new(target)).map(drop))
        }
        Unit::Sysctl {
            key,
            value,
            optional,
        } => forgiving(*optional, said(kernel::sysctl(key, value))),
        _ => Ok(String::new()),
    }
}

fn said<E: std::error::Error>(result: Result<(), E>) -> Result<String, String> {
    result
        .map(|()| String::new())
        .map_err(|error| words(&error))
}

/// What is optional is true anyhow, with a remark.
fn forgiving(optional: bool, result: Result<String, String>) -> Result<String, String> {
    match result {
        Err(message) if optional => Ok(format!("optional: {message}")),
        other => other,
    }
}
