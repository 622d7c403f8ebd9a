//! Decisions, over plans made at random.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use farplane_types::{HostPlanSpec, Unit};
use proptest::prelude::*;

use super::support::{cleanup, directory, plan, sleeping, text_file};
use crate::units::decide::{
    Digests, Goal, Phase, Step, digest, goal, may_begin, outlives, remember, steps,
};
use crate::units::record::Record;
use crate::units::{State, Wanted};

/// What a machine has: the definition of each unit that is true on it.
#[derive(Debug, Default)]
struct Machine {
    touched: Vec<Unit>,
    done: Digests,
}

impl Machine {
    /// As the engine does it.
    fn apply(&mut self, wanted: &HostPlanSpec) -> Vec<Step> {
        self.touched = remember(&self.touched, &wanted.units);
        let steps = steps(&self.touched, &self.done, Some(wanted));
        for step in &steps {
            match step {
                Step::Stop(unit) | Step::Remove(unit) => {
                    self.done.remove(&unit.key());
                }
                Step::Apply(index) => {
                    let unit = &wanted.units[*index];
                    self.done.insert(unit.key(), digest(wanted, unit));
                }
                _ => {}
            }
        }
        let keys: BTreeSet<_> = wanted.units.iter().map(Unit::key).collect();
        self.touched
            .retain(|unit| keys.contains(&unit.key()) || outlives(unit, wanted));
        steps
    }
}

fn unit() -> impl Strategy<Value = Unit> {
    let name = prop::sample::select(vec!["a", "b", "c"]);
    let content = prop::sample::select(vec!["1", "2"]);
    (0..7, name, content).prop_map(|(kind, name, content)| match kind {
        0 => Unit::Artifact {
            name: name.to_owned(),
            sha256: content.repeat(64),
            size: 1,
        },
        1 => text_file(&format!("/plane/dir/{name}"), content),
        2 => directory(&format!("/plane/{name}")),
        3 => Unit::Link {
            path: format!("/plane/{name}"),
            target: content.to_owned(),
        },
        4 => Unit::Sysctl {
            key: name.to_owned(),
            value: content.to_owned(),
            optional: false,
        },
        5 => sleeping(
            name,
            &format!("/bin/{content}"),
            &["file/plane/dir/a".to_owned()],
        ),
        _ => Unit::Cleanup {
            name: name.to_owned(),
            commands: Vec::new(),
            interfaces: vec![content.to_owned()],
            tables: Vec::new(),
            directories: Vec::new(),
        },
    })
}

prop_compose! {
    fn any_plan()(units in prop::collection::vec(unit(), 0..12)) -> Arc<HostPlanSpec> {
        let mut seen = BTreeSet::new();
        let units = units.into_iter().filter(|unit| seen.insert(unit.key()));
        plan("any", units.collect())
    }
}

proptest! {
    #[test]
    fn any_plan_after_any_other_converges(plans in prop::collection::vec(any_plan(), 1..5)) {
        let mut machine = Machine::default();
        for wanted in &plans {
            machine.apply(wanted);
            for unit in &wanted.units {
                prop_assert_eq!(machine.done.get(&unit.key()), Some(&digest(wanted, unit)));
            }
            prop_assert_eq!(machine.apply(wanted), vec![], "an unchanged plan gives no step");
        }
    }

    #[test]
    fn units_are_applied_in_order_between_stops_and_removals(one in any_plan(), two in any_plan()) {
        let mut machine = Machine::default();
        machine.apply(&one);
        let rank = |step: &Step| match step {
            Step::Stop(_) => (0, 0),
            Step::Apply(index) => (1, *index),
            Step::Remove(_) => (2, 0),
            Step::Sweep => (3, 0),
            Step::EndStrays | Step::Clean(_) => (9, 0),
        };
        let ranks: Vec<_> = machine.apply(&two).iter().map(rank).collect();
        prop_assert!(ranks.is_sorted() && ranks.iter().all(|(rank, _)| *rank < 9), "{:?}", ranks);
    }

    #[test]
    fn an_undo_is_the_reverse_and_forgets_nothing(one in any_plan(), two in any_plan()) {
        let mut machine = Machine::default();
        machine.apply(&one);
        machine.touched = remember(&machine.touched, &two.units);
        let steps = steps(&machine.touched, &machine.done, None);
        let mut places = BTreeMap::new();
        for (place, unit) in machine.touched.iter().enumerate() {
            places.insert(unit.key(), place);
        }
        let rank = |step: &Step| match step {
            Step::Stop(unit) => (0, -(places[&unit.key()] as i64)),
            Step::EndStrays => (1, 0),
            Step::Clean(unit) => (2, -(places[&unit.key()] as i64)),
            Step::Remove(unit) => (3, -(places[&unit.key()] as i64)),
            Step::Sweep => (4, 0),
            Step::Apply(_) => (9, 0),
        };
        let ranks: Vec<_> = steps.iter().map(rank).collect();
        prop_assert!(ranks.is_sorted(), "{:?}", ranks);
        let undone: BTreeSet<_> = steps.iter().filter_map(|step| match step {
            Step::Stop(unit) | Step::Clean(unit) | Step::Remove(unit) => Some(unit.key()),
            _ => None,
        }).collect();
        for unit in one.units.iter().chain(&two.units) {
            let leaves = !matches!(unit, Unit::Artifact { .. } | Unit::Sysctl { .. });
            let has_gone = !machine.touched.iter().any(|other| other.key() == unit.key());
            prop_assert!(!leaves || has_gone || undone.contains(&unit.key()), "{}", unit.key());
        }
    }

    #[test]
    fn nothing_that_a_plan_has_is_removed(one in any_plan(), two in any_plan()) {
        let mut machine = Machine::default();
        machine.apply(&one);
        for step in machine.apply(&two) {
            let Step::Remove(gone) = step else { continue };
            let is_directory = matches!(gone, Unit::Directory { .. });
            let gone = path(&gone).unwrap_or_default();
            for unit in &two.units {
                let kept = path(unit).unwrap_or_default();
                prop_assert!(kept != gone, "{kept}");
                let below = kept.starts_with(&format!("{gone}/"));
                prop_assert!(!is_directory || !below, "{kept} in {gone}");
            }
        }
    }

    #[test]
    fn whatever_ends_first_everything_begins(wanted in any_plan(), picks in prop::collection::vec(0..100_usize, 64)) {
        let mut phases = vec![Phase::Pending; wanted.units.len()];
        let mut ordered = Vec::new();
        for pick in picks.into_iter().cycle().take(wanted.units.len()) {
            let ready: Vec<_> = (0..phases.len())
                .filter(|&index| phases[index] == Phase::Pending && may_begin(&wanted, &phases, index).is_ok())
                .collect();
            prop_assert!(!ready.is_empty(), "stuck at {:?}", phases);
            let index = ready[pick % ready.len()];
            phases[index] = Phase::Done;
            if matches!(wanted.units[index], Unit::File { .. } | Unit::Link { .. } | Unit::Directory { .. } | Unit::Sysctl { .. }) {
                ordered.push(index);
            }
        }
        prop_assert!(ordered.is_sorted());
    }
}

fn path(unit: &Unit) -> Option<&str> {
    match unit {
        Unit::File { path, .. } | Unit::Directory { path, .. } | Unit::Link { path, .. } => {
            Some(path)
        }
        _ => None,
    }
}

#[test]
fn a_process_restarts_for_units_that_it_names_and_for_no_other() {
    let process = sleeping("one", "/bin/x", &["file/a/one".to_owned()]);
    let with = |one: &str, two: &str| {
        plan(
            "p",
            vec![
                text_file("/a/one", one),
                text_file("/a/two", two),
                process.clone(),
            ],
        )
    };
    let of = |plan: &HostPlanSpec| digest(plan, &process);
    assert_eq!(of(&with("1", "1")), of(&with("1", "2")));
    assert_ne!(of(&with("1", "1")), of(&with("2", "1")));
    assert_ne!(of(&plan("p", vec![process.clone()])), of(&with("1", "1")));
}

#[test]
fn a_process_waits_for_artifacts_that_it_or_its_files_name() {
    let artifact = |name: &str, digit: &str| Unit::Artifact {
        name: name.to_owned(),
        sha256: digit.repeat(64),
        size: 1,
    };
    let (one, two, three) = ("1".repeat(64), "2".repeat(64), "3".repeat(64));
    let config = text_file("/a/config", &format!("plugins = /artifacts/{two}"));
    let mut process = sleeping("one", &format!("/artifacts/{one}/program"), &[]);
    if let Unit::Process { command, .. } = &mut process {
        command.push("--config=/a/config".to_owned());
    }
    let units = vec![
        artifact("one", "1"),
        artifact("two", "2"),
        artifact("three", "3"),
        config,
        process,
    ];
    let plan = plan("p", units);
    let (done, not) = (Phase::Done, Phase::Running);
    let waits = |phases: [Phase; 5]| may_begin(&plan, &phases, 4).err();
    assert_eq!(
        waits([not, done, done, done, not]).as_deref(),
        Some("artifact/one")
    );
    assert_eq!(
        waits([done, not, done, done, not]).as_deref(),
        Some("artifact/two")
    );
    assert_eq!(
        waits([done, done, not, done, not]),
        None,
        "{three} is not named"
    );
    assert_eq!(
        waits([done, done, not, not, not]).as_deref(),
        Some("file/a/config")
    );
}

#[test]
fn what_only_an_earlier_definition_would_remove_is_remembered() {
    let clean = |interface: &str| {
        let mut unit = cleanup();
        if let Unit::Cleanup { interfaces, .. } = &mut unit {
            interfaces.push(interface.to_owned());
        }
        unit
    };
    let touched = remember(&[clean("old0")], &[clean("new0")]);
    let [Unit::Cleanup { interfaces, .. }] = &touched[..] else {
        panic!("{touched:?}")
    };
    assert_eq!(interfaces, &["new0", "old0"]);
}

#[test]
fn goals_follow_the_record_and_the_last_word() {
    let (mine, other) = (plan("mine", vec![]), plan("other", vec![]));
    let want = |spec: &Arc<HostPlanSpec>| Wanted::Plan {
        generation: 2,
        spec: spec.clone(),
    };
    let apply = |generation, plan: &Arc<HostPlanSpec>| Goal::Apply {
        generation,
        plan: plan.clone(),
    };
    let empty = Record::default();
    let applied = Record {
        generation: 1,
        plan: Some(mine.clone()),
        ..Record::default()
    };
    let undoing = Record {
        undoing: true,
        ..applied.clone()
    };
    assert_eq!(goal(&empty, None, false), Goal::Rest(State::Unknown));
    assert_eq!(goal(&empty, Some(&Wanted::Nothing), false), Goal::Undo);
    assert_eq!(
        goal(&empty, Some(&Wanted::Removed), true),
        Goal::Rest(State::Clean)
    );
    assert_eq!(goal(&empty, Some(&want(&mine)), true), apply(2, &mine));
    assert_eq!(goal(&applied, None, false), apply(1, &mine));
    assert_eq!(goal(&applied, Some(&want(&mine)), false), apply(2, &mine));
    assert_eq!(goal(&applied, Some(&want(&other)), false), Goal::Undo);
    assert_eq!(goal(&applied, Some(&Wanted::Nothing), true), Goal::Undo);
    for wanted in [
        None,
        Some(want(&mine)),
        Some(want(&other)),
        Some(Wanted::Nothing),
    ] {
        assert_eq!(
            goal(&undoing, wanted.as_ref(), false),
            Goal::Undo,
            "an undo is finished first"
        );
    }
}
