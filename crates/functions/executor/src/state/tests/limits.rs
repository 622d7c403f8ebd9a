//! What holds whatever happens in whatever order.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Ready(u8),
    Gone(u8),
    Ending(u8),
    Restart(u8),
    Acquire(usize, bool),
    Done,
    Fail,
    Break,
    Leave(usize),
    Use(u8, usize),
    Pass(u64),
    Outdate(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..40_u8).prop_map(Step::Ready),
        (0..40_u8).prop_map(Step::Gone),
        (0..40_u8).prop_map(Step::Ending),
        (0..40_u8).prop_map(Step::Restart),
        (0..3_usize, any::<bool>()).prop_map(|(of, known)| Step::Acquire(of, known)),
        (0..3_usize, any::<bool>()).prop_map(|(of, known)| Step::Acquire(of, known)),
        Just(Step::Done),
        Just(Step::Done),
        Just(Step::Fail),
        Just(Step::Break),
        (0..8_usize).prop_map(Step::Leave),
        (0..40_u8, 0..2_usize).prop_map(|(pod, active)| Step::Use(pod, active)),
        (0..200_u64).prop_map(Step::Pass),
        (0..3_usize).prop_map(Step::Outdate),
    ]
}

/// What must be true after every step.
fn check(bench: &Bench, limits: &BTreeMap<String, usize>) {
    let mut claimed: BTreeMap<&str, usize> = BTreeMap::new();
    for job in &bench.jobs {
        *claimed.entry(&job.pod.uid).or_default() += 1;
    }
    assert!(claimed.values().all(|jobs| *jobs == 1), "{claimed:?}");
    for (id, group) in &bench.state.groups {
        let made = group.live.len() + group.starting;
        assert!(made <= limits[&id.uid], "{made} instances of {id:?}");
        let jobs = bench
            .jobs
            .iter()
            .filter(|job| job.waiter.revision.id() == *id);
        let queue = bench.state.pools.values().flat_map(|pool| &pool.queue);
        let queued = queue.filter(|waiter| waiter.revision.id() == *id);
        assert_eq!(group.starting, jobs.count() + queued.count(), "{id:?}");
        for uid in &group.live {
            let entry = &bench.state.pods[uid];
            assert!(matches!(&entry.phase, Phase::Live(live) if live.id == *id));
            assert!(!claimed.contains_key(uid.as_str()));
        }
    }
    for pool in bench.state.pools.values() {
        for (_, uid) in &pool.ready {
            assert!(matches!(bench.state.pods[uid].phase, Phase::Ready));
        }
        let idle = pool.queue.iter().any(|waiter| !waiter.answer.is_closed());
        assert!(
            pool.ready.is_empty() || !idle,
            "a Pod and a caller that wait"
        );
    }
}

proptest! {
    #[test]
    fn limits_hold_whatever_happens(steps in prop::collection::vec(step(), 1..120)) {
        let functions = [revision("a", 1), revision("b", 2), revision("c", 5)];
        let limits: BTreeMap<String, usize> = functions
            .iter()
            .map(|one| (one.key.uid.clone(), one.concurrency))
            .collect();
        let mut bench = Bench::new();
        let mut waiting = Vec::new();
        // UIDs do not come back.
        let mut dead = std::collections::BTreeSet::new();
        for step in steps {
            match step {
                Step::Ready(pod) if !dead.contains(&pod) => bench.ready(pod),
                Step::Ready(_) => {}
                Step::Gone(pod) => {
                    dead.insert(pod);
                    bench.gone(pod);
                }
                Step::Ending(number) => {
                    dead.insert(number);
                    let mut view = pod(number);
                    view.ending = true;
                    bench.observe(view);
                }
                Step::Restart(number) if dead.contains(&number) => {}
                Step::Restart(number) => {
                    let mut view = pod(number);
                    view.restarts = 1;
                    bench.observe(view);
                }
                Step::Acquire(of, knows) => {
                    let known = if knows {
                        (0..40).map(at).collect()
                    } else {
                        Vec::new()
                    };
                    let (found, answered) = bench.acquire(&functions[of], &known);
                    if let Some(Ok(found)) = found {
                        prop_assert!(!known.contains(&found.address));
                    }
                    waiting.push(answered);
                }
                Step::Done if !bench.jobs.is_empty() => bench.done(),
                Step::Fail if !bench.jobs.is_empty() => bench.fail(),
                Step::Break if !bench.jobs.is_empty() => {
                    let Job { pod, waiter } = bench.jobs.remove(0);
                    bench.break_off(&pod.uid, waiter);
                }
                Step::Done | Step::Fail | Step::Break => {}
                Step::Leave(which) => {
                    if which < waiting.len() {
                        drop(waiting.swap_remove(which));
                        let effects = bench.state.prune("env");
                        bench.take(effects);
                    }
                }
                Step::Use(pod, active) => bench.used(&[pod], active, 0),
                Step::Pass(seconds) => {
                    bench.pass(seconds);
                    bench.reap();
                }
                Step::Outdate(of) => {
                    let effects = bench.state.refresh(&functions[of].id(), None, bench.now);
                    bench.take(effects);
                }
            }
            check(&bench, &limits);
        }
        // Nothing is held when everybody has left and everything has ended.
        waiting.clear();
        while !bench.jobs.is_empty() {
            bench.fail();
            let effects = bench.state.prune("env");
            bench.take(effects);
        }
        let effects = bench.state.prune("env");
        bench.take(effects);
        for group in bench.state.groups.values() {
            prop_assert_eq!(group.starting, 0);
        }
    }
}
