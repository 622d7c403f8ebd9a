//! Who gets which Pod.

mod endings;
mod extras;
mod limits;
mod reserve;

use std::time::Duration;

use farplane_functions_types::ExecutorType;
use farplane_functions_types::wire::{InstanceUsage, Usage};
use tokio::sync::oneshot::Receiver;

use super::*;
use crate::state::view::Trouble;

fn revision(name: &str, concurrency: usize) -> Arc<Revision> {
    Arc::new(Revision {
        key: FunctionKey {
            namespace: "n".into(),
            name: name.into(),
            uid: format!("uid-{name}"),
            generation: 1,
            version: String::new(),
        },
        code_hash: "code".into(),
        environment: "env".into(),
        environment_name: "python".into(),
        executor: ExecutorType::Poolmgr,
        concurrency,
        idle: Duration::from_secs(120),
        retain: 0,
        once_only: false,
        specialization: Duration::from_secs(120),
        request: bytes::Bytes::new(),
        request_digest: [0; 32],
    })
}

fn with(revision: &Arc<Revision>, change: impl FnOnce(&mut Revision)) -> Arc<Revision> {
    let old = revision.as_ref();
    let mut copy = Revision {
        key: old.key.clone(),
        code_hash: old.code_hash.clone(),
        environment: old.environment.clone(),
        environment_name: old.environment_name.clone(),
        request: old.request.clone(),
        ..*old
    };
    change(&mut copy);
    Arc::new(copy)
}

fn pod(number: u8) -> PodView {
    PodView {
        uid: format!("pod-{number}"),
        namespace: "n".into(),
        name: format!("pod-{number}"),
        ip: Some(std::net::IpAddr::from([10, 0, 0, number])),
        environment: "env".into(),
        ..PodView::default()
    }
}

fn at(number: u8) -> String {
    format!("10.0.0.{number}:8888")
}

fn generic() -> FetcherState {
    FetcherState::default()
}

type Outcome = Result<Instance, Failed>;

/// A state, what it asked for, and a clock.
struct Bench {
    state: State,
    now: Instant,
    jobs: Vec<Job>,
    deleted: Vec<String>,
    /// Those of them that may not go on.
    hurried: Vec<String>,
    labelled: Vec<(String, Labels)>,
    lost: Vec<String>,
}

impl Bench {
    fn new() -> Self {
        Self {
            state: State::default(),
            now: Instant::now(),
            jobs: Vec::new(),
            deleted: Vec::new(),
            hurried: Vec::new(),
            labelled: Vec::new(),
            lost: Vec::new(),
        }
    }

    fn take(&mut self, effects: Vec<Effect>) {
        for effect in effects {
            match effect {
                Effect::Probe(_) => {}
                Effect::Specialize(job) => self.jobs.push(job),
                Effect::Delete(pod, _, grace) => {
                    if grace == Grace::None {
                        self.hurried.push(pod.uid.clone());
                    }
                    self.deleted.push(pod.uid);
                }
                Effect::Label(pod, labels) => self.labelled.push((pod.uid, labels)),
                Effect::Lost(_, failed) => self.lost.push(failed.reason),
            }
        }
    }

    fn pass(&mut self, seconds: u64) {
        self.now += Duration::from_secs(seconds);
    }

    fn observe(&mut self, view: PodView) {
        let effects = self.state.observe(view, self.now);
        self.take(effects);
    }

    /// A generic Pod that is ready.
    fn ready(&mut self, number: u8) {
        self.observe(pod(number));
        let uid = pod(number).uid;
        let effects = self.state.probed(&uid, &generic(), None, self.now);
        self.take(effects);
    }

    fn gone(&mut self, number: u8) {
        let effects = self.state.gone(&pod(number).uid);
        self.take(effects);
    }

    fn acquire(
        &mut self,
        revision: &Arc<Revision>,
        known: &[String],
    ) -> (Option<Outcome>, Receiver<Outcome>) {
        let (answer, answered) = oneshot::channel();
        match self.state.acquire(revision, known, answer, self.now) {
            Acquired::Live(instance) => (Some(Ok(instance)), answered),
            Acquired::Failed(failed) => (Some(Err(failed)), answered),
            Acquired::Waiting(effects) => {
                self.take(effects);
                (None, answered)
            }
        }
    }

    /// The oldest specialisation ends well.
    fn done(&mut self) {
        let Job { pod, waiter } = self.jobs.remove(0);
        match self.state.specialised(&pod.uid, &waiter.revision, self.now) {
            Some(made) => _ = waiter.answer.send(Ok(made)),
            None => self.break_off(&pod.uid, waiter),
        }
    }

    fn break_off(&mut self, uid: &str, waiter: Waiter) {
        let failed = Failed::later("environment", "broke");
        let effects = self.state.broken(uid, waiter, failed);
        self.take(effects);
    }

    fn fail(&mut self) {
        let Job { pod, waiter } = self.jobs.remove(0);
        let failed = Failed::wrong("function", "does not import");
        let id = waiter.revision.id();
        let effects = self.state.failed(&pod.uid, &id, &failed);
        self.take(effects);
        _ = waiter.answer.send(Err(failed));
    }

    /// An instance of a function on a Pod.
    fn live(&mut self, revision: &Arc<Revision>, number: u8) {
        self.ready(number);
        let known: Vec<String> = (0..=u8::MAX).map(at).collect();
        let (now, mut answered) = self.acquire(revision, &known);
        assert!(now.is_none());
        self.done();
        assert_eq!(answered.try_recv().unwrap().unwrap().address, at(number));
    }

    fn used(&mut self, numbers: &[u8], active: usize, idle: u64) {
        let one = |number: &u8| InstanceUsage {
            address: at(*number),
            active,
            idle_ms: idle * 1000,
        };
        let usage = Usage {
            router: "r".into(),
            instances: numbers.iter().map(one).collect(),
        };
        let effects = self.state.usage(&usage, self.now);
        self.take(effects);
    }

    fn reap(&mut self) -> Vec<String> {
        let effects = self.state.reap(self.now);
        self.take(effects);
        std::mem::take(&mut self.deleted)
    }
}

#[test]
fn the_pod_that_was_ready_first_is_taken_first() {
    let mut bench = Bench::new();
    bench.ready(2);
    bench.ready(1);
    let (_, mut answered) = bench.acquire(&revision("f", 500), &[]);
    assert_eq!(bench.jobs[0].pod.uid, "pod-2");
    bench.done();
    let made = answered.try_recv().unwrap().unwrap();
    assert_eq!(made.address, at(2));
    assert!(made.cold);
}

#[test]
fn another_instance_is_named_before_one_is_made() {
    let mut bench = Bench::new();
    let f = revision("f", 500);
    bench.live(&f, 1);
    bench.ready(2);
    let (found, _) = bench.acquire(&f, &[]);
    let found = found.unwrap().unwrap();
    assert_eq!(found.address, at(1));
    assert!(!found.cold);
    // Known: another is made.
    let (found, _answered) = bench.acquire(&f, &[at(1)]);
    assert!(found.is_none());
    assert_eq!(bench.jobs[0].pod.uid, "pod-2");
}

#[test]
fn at_the_limit_callers_share_what_is_being_made_or_are_told() {
    let mut bench = Bench::new();
    let f = revision("f", 1);
    bench.ready(1);
    bench.ready(2);
    let (_, mut first) = bench.acquire(&f, &[]);
    let (found, mut second) = bench.acquire(&f, &[]);
    assert!(found.is_none());
    assert_eq!(bench.jobs.len(), 1, "the second has to share");
    bench.done();
    assert!(first.try_recv().unwrap().unwrap().cold);
    assert!(!second.try_recv().unwrap().unwrap().cold);
    let (found, _) = bench.acquire(&f, &[at(1)]);
    let failed = found.unwrap().unwrap_err();
    assert_eq!(failed.status, http::StatusCode::TOO_MANY_REQUESTS);
}

#[test]
fn callers_of_an_empty_pool_are_served_in_order_and_those_that_left_are_passed_over() {
    let mut bench = Bench::new();
    let (f, g, h) = (revision("f", 9), revision("g", 9), revision("h", 9));
    let (_, _first) = bench.acquire(&f, &[]);
    let (_, gone) = bench.acquire(&g, &[]);
    let (_, _third) = bench.acquire(&h, &[]);
    assert_eq!(bench.state.waiting("env"), 3);
    drop(gone);
    bench.ready(1);
    bench.ready(2);
    let served: Vec<&str> = bench
        .jobs
        .iter()
        .map(|job| job.waiter.revision.key.name.as_str())
        .collect();
    assert_eq!(served, ["f", "h"]);
    assert_eq!(bench.state.waiting("env"), 0);
}

#[test]
fn a_place_that_is_given_back_goes_to_the_next_caller() {
    let mut bench = Bench::new();
    let f = revision("f", 1);
    let (_, first) = bench.acquire(&f, &[]);
    let (_, mut second) = bench.acquire(&f, &[]);
    drop(first);
    let effects = bench.state.prune("env");
    bench.take(effects);
    bench.ready(1);
    assert_eq!(bench.jobs.len(), 1);
    bench.done();
    assert_eq!(second.try_recv().unwrap().unwrap().address, at(1));
}

#[test]
fn a_pod_that_breaks_is_replaced_and_three_are_enough() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    for number in 1..=3 {
        bench.ready(number);
    }
    let (_, mut answered) = bench.acquire(&f, &[]);
    for _ in 0..3 {
        assert!(answered.try_recv().is_err());
        let Job { pod, waiter } = bench.jobs.remove(0);
        bench.break_off(&pod.uid, waiter);
    }
    let failed = answered.try_recv().unwrap().unwrap_err();
    assert_eq!(failed.component, "environment");
    assert!(bench.state.groups[&f.id()].starting == 0);
}

#[test]
fn a_pod_that_is_deleted_while_it_gets_its_code_is_replaced() {
    let mut bench = Bench::new();
    let f = revision("f", 1);
    bench.ready(1);
    bench.ready(2);
    let (_, mut answered) = bench.acquire(&f, &[]);
    let mut ending = pod(1);
    ending.ending = true;
    bench.observe(ending);
    bench.done();
    assert!(answered.try_recv().is_err());
    bench.gone(1);
    bench.done();
    assert_eq!(answered.try_recv().unwrap().unwrap().address, at(2));
}

#[test]
fn code_that_does_not_load_fails_everybody_who_waits_for_it() {
    let mut bench = Bench::new();
    let f = revision("f", 1);
    bench.ready(1);
    let (_, mut first) = bench.acquire(&f, &[]);
    let (_, mut second) = bench.acquire(&f, &[]);
    bench.fail();
    for answered in [&mut first, &mut second] {
        let failed = answered.try_recv().unwrap().unwrap_err();
        assert_eq!(failed.reason, "does not import");
    }
}

#[test]
fn an_image_that_cannot_be_pulled_is_told_at_once() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    let (_, mut waits) = bench.acquire(&f, &[]);
    let mut stuck = pod(1);
    stuck.ip = None;
    stuck.trouble = Some(Trouble {
        words: "image nope cannot be pulled".into(),
        lasting: false,
    });
    bench.observe(stuck.clone());
    assert!(waits.try_recv().is_err(), "a first failure may pass");
    stuck.trouble.as_mut().unwrap().lasting = true;
    bench.observe(stuck);
    let failed = waits.try_recv().unwrap().unwrap_err();
    assert!(failed.reason.contains("cannot be pulled"), "{failed}");
    let (found, _) = bench.acquire(&f, &[]);
    assert_eq!(found.unwrap().unwrap_err().component, "environment");
    assert_eq!(bench.state.groups[&f.id()].starting, 0);
}

#[test]
fn an_environment_that_is_refused_is_told_at_once() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    let (_, mut waits) = bench.acquire(&f, &[]);
    bench
        .state
        .refuse("env", Some("hostNetwork cannot be set".into()));
    let failed = waits.try_recv().unwrap().unwrap_err();
    assert!(failed.reason.contains("hostNetwork"), "{failed}");
    let (found, _) = bench.acquire(&f, &[]);
    assert_eq!(found.unwrap().unwrap_err().component, "environment");
    bench.state.refuse("env", None);
    assert!(bench.acquire(&f, &[]).0.is_none());
}

#[test]
fn what_runs_is_adopted_from_its_labels() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    let mut view = pod(1);
    view.labels = Some(Labels {
        key: f.key.clone(),
        code_hash: "code".into(),
        served: true,
    });
    bench.observe(view);
    let (found, _) = bench.acquire(&f, &[]);
    assert_eq!(found.unwrap().unwrap().address, at(1));
}

#[test]
fn what_was_specialised_but_not_written_down_is_found_by_asking() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    bench.observe(pod(1));
    let said = FetcherState {
        function: Some(f.key.clone()),
        begun: true,
    };
    let effects = bench.state.probed("pod-1", &said, Some(&f), bench.now);
    bench.take(effects);
    let (uid, labels) = &bench.labelled[0];
    assert_eq!(uid, "pod-1");
    assert_eq!(labels.key, f.key);
    assert!(labels.served);
    let (found, _) = bench.acquire(&f, &[]);
    assert_eq!(found.unwrap().unwrap().address, at(1));
}

#[test]
fn what_has_half_of_its_code_or_other_code_is_deleted() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    for (number, function, current) in [
        (1, None, None),
        (2, Some(f.key.clone()), None),
        (
            3,
            Some(f.key.clone()),
            Some(with(&f, |new| new.key.generation = 2)),
        ),
    ] {
        bench.observe(pod(number));
        let said = FetcherState {
            function,
            begun: true,
        };
        let uid = pod(number).uid;
        let effects = bench.state.probed(&uid, &said, current.as_ref(), bench.now);
        bench.take(effects);
    }
    assert_eq!(bench.deleted, ["pod-1", "pod-2", "pod-3"]);
    // Labelled for a function whose code never came.
    let mut view = pod(4);
    view.labels = Some(Labels {
        key: f.key.clone(),
        code_hash: "code".into(),
        served: false,
    });
    bench.observe(view);
    let effects = bench.state.probed("pod-4", &generic(), Some(&f), bench.now);
    bench.take(effects);
    assert_eq!(bench.deleted.last().unwrap(), "pod-4");
}

#[test]
fn an_instance_whose_runtime_was_restarted_is_deleted_and_told_of() {
    let mut bench = Bench::new();
    let f = revision("f", 9);
    bench.live(&f, 1);
    let mut view = pod(1);
    view.restarts = 1;
    view.ended = Some("exit code 1 (Error)".into());
    bench.observe(view);
    assert_eq!(bench.deleted, ["pod-1"]);
    assert!(bench.lost[0].contains("exit code 1"), "{:?}", bench.lost);
    assert!(bench.acquire(&f, &[]).0.is_none(), "it is not handed out");
}
