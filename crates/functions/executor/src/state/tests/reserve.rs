//! Pods that are kept beside the pool after a burst.

use super::extras::{SIZE, burst};
use super::*;
use crate::state::reserve::KEEP;

impl Bench {
    fn reserve(&self) -> usize {
        self.state.reserve("env", SIZE, self.now)
    }

    fn lacking(&self) -> usize {
        self.state.reserve_missing("env", SIZE, self.now)
    }

    fn cold_calls(&mut self, names: std::ops::Range<usize>) {
        for number in names {
            _ = self.acquire(&revision(&format!("g{number}"), 1), &[]);
        }
    }
}

#[test]
fn a_burst_leaves_what_it_needed_beyond_the_pool() {
    assert_eq!(burst(3).0.reserve(), 0);
    assert_eq!(burst(10).0.reserve(), 7);
    assert_eq!(burst(1000).0.reserve(), 9, "the pool's size bounds it");
    let bench = burst(10).0;
    assert_eq!(
        bench.state.reserve("env", 0, bench.now),
        0,
        "no pool is wanted"
    );
    assert_eq!(bench.state.reserve("another", SIZE, bench.now), 0);
}

#[test]
fn calls_one_after_the_other_are_no_burst() {
    let mut bench = Bench::new();
    for number in 0..20 {
        bench.cold_calls(number..number + 1);
        bench.pass(3);
    }
    assert_eq!(bench.reserve(), 0);
}

#[test]
fn warm_calls_are_no_burst() {
    let mut bench = Bench::new();
    bench.ready(1);
    let function = revision("f", 1);
    _ = bench.acquire(&function, &[]);
    bench.done();
    for _ in 0..20 {
        assert!(bench.acquire(&function, &[]).0.is_some());
    }
    assert_eq!(bench.reserve(), 0);
}

#[test]
fn it_is_kept_for_its_time_after_the_last_burst_of_its_size() {
    let mut bench = burst(10).0;
    bench.pass(KEEP.as_secs() - 10);
    assert_eq!(bench.reserve(), 7);
    // A smaller one keeps nothing longer.
    bench.cold_calls(0..5);
    bench.pass(11);
    assert_eq!(bench.reserve(), 0);
    bench.cold_calls(5..10);
    assert_eq!(bench.reserve(), 2);
    bench.pass(10);
    bench.cold_calls(10..20);
    assert_eq!(bench.reserve(), 7);
    bench.pass(KEEP.as_secs() - 10);
    bench.cold_calls(20..30);
    bench.pass(20);
    assert_eq!(bench.reserve(), 7);
}

#[test]
fn it_is_made_a_few_at_a_time_once_nobody_waits() {
    let (mut bench, answers) = burst(10);
    assert_eq!(bench.lacking(), 0, "callers come first");
    drop(answers);
    let effects = bench.state.prune("env");
    bench.take(effects);
    let mut made = 0;
    for number in 20..40 {
        let lacking = bench.lacking();
        if lacking == 0 {
            break;
        }
        assert!(lacking <= 2);
        bench.observe(pod(number));
        assert!(bench.lacking() <= 1, "one is on its way");
        bench.ready(number);
        made += 1;
    }
    assert_eq!(made, 7);
    // It stays, until its time is over.
    let kept = SIZE + bench.reserve();
    assert!(bench.state.shed("env", kept).is_empty());
    bench.pass(KEEP.as_secs());
    let kept = SIZE + bench.reserve();
    let ended = bench.state.shed("env", kept).len();
    assert_eq!(ended, 7 - SIZE, "the pool lacks as many here");
}

#[test]
fn a_cluster_without_room_gets_no_more() {
    let (mut bench, answers) = burst(10);
    drop(answers);
    let effects = bench.state.prune("env");
    bench.take(effects);
    bench.observe(PodView {
        trouble: Some(Trouble {
            words: "0/2 nodes are available".into(),
            lasting: false,
        }),
        ..pod(20)
    });
    assert_eq!(bench.lacking(), 0);
    bench.state.forget_reserve("env");
    assert_eq!(bench.reserve(), 0);
}
