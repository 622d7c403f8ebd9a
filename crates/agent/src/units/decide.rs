//! What is done next: synchronous functions without IO.
//!
//! [`remember`] says what must be recorded before a plan is begun, [`steps`] what has to
//! happen between what is recorded and what is wanted, [`may_begin`] which units of a
//! plan may begin now, given how far the others are.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use farplane_types::{HostPlanSpec, Unit};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use super::record::Record;
use super::{State, Wanted};

/// Digest of each unit that is true, by key.
pub type Digests = BTreeMap<String, String>;

/// What the owner of the machine works at.
#[derive(Clone, Debug, PartialEq)]
pub enum Goal {
    /// Nothing is to be done; this is the state.
    Rest(State),
    /// Undo what is recorded.
    Undo,
    /// Record this plan, if it is not, and keep it true.
    Apply {
        /// Its generation.
        generation: i64,
        /// The plan.
        plan: Arc<HostPlanSpec>,
    },
}

/// What to work at. `clean`: an undo has ended since the start and nothing was begun since.
pub fn goal(record: &Record, wanted: Option<&Wanted>, clean: bool) -> Goal {
    if record.undoing {
        return Goal::Undo;
    }
    match (&record.plan, wanted) {
        (None, None) => Goal::Rest(if clean { State::Clean } else { State::Unknown }),
        (Some(plan), None) => Goal::Apply {
            generation: record.generation,
            plan: plan.clone(),
        },
        (Some(old), Some(Wanted::Plan { spec, .. })) if old.plane.uid != spec.plane.uid => {
            Goal::Undo
        }
        (_, Some(Wanted::Plan { generation, spec })) => Goal::Apply {
            generation: *generation,
            plan: spec.clone(),
        },
        (None, Some(Wanted::Nothing | Wanted::Removed)) if clean => Goal::Rest(State::Clean),
        // Also without a record: an artifact or process may be left of a lost one.
        (_, Some(Wanted::Nothing | Wanted::Removed)) => Goal::Undo,
    }
}

/// Something to do.
#[derive(Clone, Debug, PartialEq)]
pub enum Step {
    /// End a process for good and remove what it leaves.
    Stop(Unit),
    /// Make the plan's unit at this place true.
    Apply(usize),
    /// End everything that still runs from an artifact.
    EndStrays,
    /// Run a clean-up unit.
    Clean(Unit),
    /// Remove a file, link or directory.
    Remove(Unit),
    /// Remove artifacts that nothing names or uses.
    Sweep,
}

/// Everything that plans of this plane may have left, once these units are begun: what is
/// there no more first, then the units in order.
pub fn remember(touched: &[Unit], units: &[Unit]) -> Vec<Unit> {
    let wanted: BTreeSet<_> = units.iter().map(Unit::key).collect();
    let known: BTreeMap<_, _> = touched.iter().map(|unit| (unit.key(), unit)).collect();
    let old = touched.iter().filter(|unit| !wanted.contains(&unit.key()));
    let new = units.iter().map(|unit| match known.get(&unit.key()) {
        Some(earlier) => merged(earlier, unit),
        None => unit.clone(),
    });
    old.cloned().chain(new).collect()
}

/// The later definition, with what only the earlier one would have removed.
fn merged(earlier: &Unit, later: &Unit) -> Unit {
    let mut unit = later.clone();
    match (earlier, &mut unit) {
        (
            Unit::Process {
                remove_after: old, ..
            },
            Unit::Process { remove_after, .. },
        ) => {
            join(remove_after, old);
        }
        (
            Unit::Cleanup {
                interfaces: a,
                tables: b,
                directories: c,
                ..
            },
            Unit::Cleanup {
                interfaces,
                tables,
                directories,
                ..
            },
        ) => {
            join(interfaces, a);
            join(tables, b);
            join(directories, c);
        }
        _ => {}
    }
    unit
}

fn join(list: &mut Vec<String>, more: &[String]) {
    for entry in more {
        if !list.contains(entry) {
            list.push(entry.clone());
        }
    }
}

/// From what is recorded to what is wanted, in order. No plan: everything is undone.
pub fn steps(touched: &[Unit], done: &Digests, wanted: Option<&HostPlanSpec>) -> Vec<Step> {
    let Some(plan) = wanted else {
        return undo(touched);
    };
    let (processes, rest): (Vec<_>, Vec<_>) = dropped(touched, plan)
        .into_iter()
        .partition(|unit| matches!(unit, Unit::Process { .. }));
    let mut steps: Vec<_> = processes.into_iter().rev().map(Step::Stop).collect();
    let pending = plan.units.iter().enumerate();
    let pending = pending.filter(|(_, unit)| done.get(&unit.key()) != Some(&digest(plan, unit)));
    steps.extend(pending.map(|(index, _)| Step::Apply(index)));
    // Only now: a process of the plan may have used them until it was restarted.
    steps.extend(rest.into_iter().rev().map(Step::Remove));
    if !steps.is_empty() {
        steps.push(Step::Sweep);
    }
    steps
}

fn undo(touched: &[Unit]) -> Vec<Step> {
    let mut stops = Vec::new();
    let mut cleans = Vec::new();
    let mut removes = Vec::new();
    for unit in touched.iter().rev().cloned() {
        match unit {
            Unit::Process { .. } => stops.push(Step::Stop(unit)),
            Unit::Cleanup { .. } => cleans.push(Step::Clean(unit)),
            Unit::File { .. } | Unit::Link { .. } | Unit::Directory { .. } => {
                removes.push(Step::Remove(unit));
            }
            Unit::Artifact { .. }
            | Unit::Sysctl { .. }
            | Unit::KernelModule { .. }
            | Unit::Image { .. } => {}
        }
    }
    let mut steps = stops;
    steps.push(Step::EndStrays);
    // Their commands use programs of artifacts, which are therefore swept last.
    steps.extend(cleans);
    steps.extend(removes);
    steps.push(Step::Sweep);
    steps
}

/// Units that left the plan and have something to undo while the plan is there.
fn dropped(touched: &[Unit], plan: &HostPlanSpec) -> Vec<Unit> {
    let wanted = keys(plan);
    let paths: Vec<_> = plan.units.iter().filter_map(path).collect();
    let gone = touched.iter().filter(|unit| !wanted.contains(&unit.key()));
    gone.filter(|unit| match unit {
        Unit::Process { .. } => true,
        Unit::File { path, .. } | Unit::Link { path, .. } => !paths
            .iter()
            .any(|wanted| Path::new(wanted) == Path::new(path)),
        Unit::Directory { path, .. } => !paths
            .iter()
            .any(|wanted| Path::new(wanted).starts_with(path)),
        _ => false,
    })
    .cloned()
    .collect()
}

/// Whether a unit that left the plan still has to be remembered once its step is done or
/// it has none: a clean-up for the end, a directory that holds something of the plan.
pub fn outlives(unit: &Unit, plan: &HostPlanSpec) -> bool {
    match unit {
        Unit::Cleanup { .. } => true,
        Unit::Directory {
            path: directory, ..
        } => plan
            .units
            .iter()
            .filter_map(path)
            .any(|wanted| wanted != directory && Path::new(wanted).starts_with(directory)),
        _ => false,
    }
}

fn keys(plan: &HostPlanSpec) -> BTreeSet<String> {
    plan.units.iter().map(Unit::key).collect()
}

/// Where a unit is in the file system.
fn path(unit: &Unit) -> Option<&str> {
    match unit {
        Unit::File { path, .. } | Unit::Directory { path, .. } | Unit::Link { path, .. } => {
            Some(path)
        }
        _ => None,
    }
}

/// Digest of a unit's definition; a process's covers the units that restart it.
pub fn digest(plan: &HostPlanSpec, unit: &Unit) -> String {
    let mut hash = Sha256::new();
    hash.update(text(unit));
    if let Unit::Process { restart_on, .. } = unit {
        for key in restart_on {
            let named = plan.units.iter().find(|unit| unit.key() == *key);
            let own = named.map(|unit| Sha256::digest(text(unit)));
            hash.update(own.unwrap_or_default());
        }
    }
    hex::encode(hash.finalize())
}

fn text(value: &impl Serialize) -> String {
    // Plain texts, numbers and maps of texts always have a JSON form.
    serde_json::to_string(value).unwrap_or_default()
}

/// How far a unit is, as far as the order is concerned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// Not begun, or to be begun again.
    Pending,
    /// Under way.
    Running,
    /// True, or not needed by others; a process: started.
    Done,
    /// Failed; becomes pending again after a pause.
    Failed,
}

/// Whether the unit at `index` may begin; else the key of the unit it waits for.
///
/// Files, directories, links and kernel settings wait for each other in the plan's order.
/// Processes and images wait for those before them and for the artifacts before them that
/// they name, themselves or in a file that they name. Artifacts wait for nothing, so that
/// they are fetched while other work goes on.
pub fn may_begin(plan: &HostPlanSpec, phases: &[Phase], index: usize) -> Result<(), String> {
    let unit = &plan.units[index];
    let needs_artifacts = matches!(unit, Unit::Process { .. } | Unit::Image { .. });
    if !needs_artifacts && !is_ordered(unit) {
        return Ok(());
    }
    let named = if needs_artifacts {
        named(plan, unit)
    } else {
        String::new()
    };
    let earlier = plan.units.iter().zip(phases).take(index);
    for (other, _) in earlier.filter(|(_, phase)| **phase != Phase::Done) {
        let needed = match other {
            Unit::Artifact { sha256, .. } => named.contains(sha256.as_str()),
            _ => is_ordered(other),
        };
        if needed {
            return Err(other.key());
        }
    }
    Ok(())
}

fn is_ordered(unit: &Unit) -> bool {
    match unit {
        Unit::File { .. }
        | Unit::Directory { .. }
        | Unit::Link { .. }
        | Unit::Sysctl { .. }
        | Unit::KernelModule { .. } => true,
        Unit::Artifact { .. }
        | Unit::Image { .. }
        | Unit::Process { .. }
        | Unit::Cleanup { .. } => false,
    }
}

/// The unit's definition and the contents of the plan's files that it names.
fn named(plan: &HostPlanSpec, unit: &Unit) -> String {
    let mut all = text(unit);
    let own = all.clone();
    for file in &plan.units {
        if let Unit::File { path, content, .. } = file
            && own.contains(path.as_str())
        {
            all.push_str(content);
        }
    }
    all
}
